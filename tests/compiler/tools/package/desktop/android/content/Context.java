package android.content;

import android.content.res.AssetManager;
import java.io.File;

/** A context whose assets lie in a folder. */
public class Context {
    private final AssetManager assets;

    public Context(File folder) {
        assets = new AssetManager(folder);
    }

    public AssetManager getAssets() {
        return assets;
    }

    public File getNoBackupFilesDir() {
        return new File(System.getProperty("java.io.tmpdir"));
    }
}
