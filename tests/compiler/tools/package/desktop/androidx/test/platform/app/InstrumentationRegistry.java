package androidx.test.platform.app;

import android.content.Context;
import java.io.File;

public final class InstrumentationRegistry {
    public static final class Instrumentation {
        public Context getTargetContext() {
            return new Context(new File(System.getProperty("module"), "src/main/assets"));
        }

        public Context getContext() {
            return new Context(new File(System.getProperty("module"), "src/androidTest/assets"));
        }
    }

    public static Instrumentation getInstrumentation() {
        return new Instrumentation();
    }
}
