package @package@;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;

import android.content.Context;

/** For runtimes that read a model from a path: the bytes that were checked, in a file that only this app can write. */
final class ModelFile {
    private ModelFile() {}

    static File write(Context context, byte[] content, String suffix) throws IOException {
        String name = "@folder@-" + Deploy.hex(Deploy.sha256(content)).substring(0, 16);
        File whole = new File(context.getNoBackupFilesDir(), name + suffix);
        File part = File.createTempFile(name, ".part", context.getNoBackupFilesDir());
        try (FileOutputStream stream = new FileOutputStream(part)) {
            stream.write(content);
        }
        if (!part.renameTo(whole)) {
            part.delete();
            throw new IOException("cannot write " + whole);
        }
        return whole;
    }
}
