package @package@;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

import android.content.res.AssetManager;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** deploy.json among the assets, and the files that it gives hashes of. */
final class Deploy {
    static final String FOLDER = "@folder@/";

    final JSONObject json;

    Deploy(AssetManager assets) throws IOException {
        try {
            json = new JSONObject(new String(readAll(assets, "deploy.json"), StandardCharsets.UTF_8));
        } catch (JSONException error) {
            throw new IOException(FOLDER + "deploy.json is damaged", error);
        }
    }

    /** An asset that has the sha256 of deploy.json; throws an IOException where it has another. */
    byte[] read(AssetManager assets, String name) throws IOException {
        byte[] content = readAll(assets, name);
        JSONObject file = object(json, "files").optJSONObject(name);
        if (file == null || !hex(sha256(content)).equals(file.optString("sha256"))) {
            throw new IOException(FOLDER + name + " was changed: its sha256 is not the one in deploy.json");
        }
        return content;
    }

    JSONObject preprocess() throws IOException {
        return object(json, "preprocess");
    }

    /** The declared mean, std or any other list of numbers, each rounded to float32. */
    static float[] floats(JSONObject from, String key) throws IOException {
        JSONArray array = from.optJSONArray(key);
        float[] made = new float[array == null ? 0 : array.length()];
        for (int at = 0; at < made.length; at++) {
            made[at] = (float) array.optDouble(at);
        }
        return made;
    }

    static JSONObject object(JSONObject from, String key) throws IOException {
        JSONObject found = from.optJSONObject(key);
        if (found == null) {
            throw new IOException("deploy.json has no " + key);
        }
        return found;
    }

    static byte[] sha256(byte[] content) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(content);
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error); // every Android has it
        }
    }

    static String hex(byte[] bytes) {
        StringBuilder text = new StringBuilder();
        for (byte value : bytes) {
            text.append(Character.forDigit(value >> 4 & 15, 16)).append(Character.forDigit(value & 15, 16));
        }
        return text.toString();
    }

    private static byte[] readAll(AssetManager assets, String name) throws IOException {
        try (InputStream stream = assets.open(FOLDER + name)) {
            ByteArrayOutputStream all = new ByteArrayOutputStream();
            byte[] buffer = new byte[1 << 16];
            for (int count = stream.read(buffer); count >= 0; count = stream.read(buffer)) {
                all.write(buffer, 0, count);
            }
            return all.toByteArray();
        }
    }
}
