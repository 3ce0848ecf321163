package fxedge.digitsmodel;

import android.content.Context;
import android.graphics.Bitmap;
import androidx.test.platform.app.InstrumentationRegistry;
import java.io.File;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.file.Files;
import javax.imageio.ImageIO;
import org.junit.Test;

/** `test` runs GoldenTest; `classify a.png ..` prints the best class of each; `fit w h c tw th file` resamples. */
public final class Desktop {
    public static void main(String[] given) throws Exception {
        switch (given[0]) {
            case "test":
                test();
                break;
            case "classify":
                classify(given);
                break;
            default:
                Pixels drawn = Pixels.pattern(number(given[1]), number(given[2]), number(given[3]));
                Files.write(new File(given[6]).toPath(), drawn.fit(number(given[4]), number(given[5])).data);
        }
    }

    private static void test() throws Exception {
        for (Method method : GoldenTest.class.getDeclaredMethods()) {
            if (method.isAnnotationPresent(Test.class)) {
                try {
                    method.invoke(new GoldenTest());
                    System.out.println("ok " + method.getName());
                } catch (InvocationTargetException error) {
                    System.out.println("FAILED " + method.getName() + ": " + error.getCause().getMessage());
                }
            }
        }
    }

    private static void classify(String[] given) throws Exception {
        Context context = InstrumentationRegistry.getInstrumentation().getTargetContext();
        try (Model model = Model.open(context, 1)) {
            for (int at = 1; at < given.length; at++) {
                Bitmap bitmap = new Bitmap(ImageIO.read(new File(given[at])));
                System.out.println(model.classify(bitmap, 5).get(0).label);
            }
        }
    }

    private static int number(String text) {
        return Integer.parseInt(text);
    }
}
