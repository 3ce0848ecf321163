package org.junit;

import java.util.Arrays;
import java.util.Objects;

public class Assert {
    public static void assertTrue(String message, boolean condition) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    public static void assertEquals(Object expected, Object actual) {
        assertTrue(expected + " is not " + actual, Objects.equals(expected, actual));
    }

    public static void assertEquals(long expected, long actual) {
        assertTrue(expected + " is not " + actual, expected == actual);
    }

    public static void assertArrayEquals(long[] expected, long[] actual) {
        assertEquals(Arrays.toString(expected), Arrays.toString(actual));
    }
}
