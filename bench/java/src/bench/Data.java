package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The events of each row, the same as bench/pattern_data.py makes: all is computed from the number of the event. */
public final class Data {
    static final long START = 1_600_000_000_000L;
    static final long SECOND = 1_000L;
    static final long MINUTE = 60 * SECOND;
    private static final long GOLDEN = 0x9E3779B97F4A7C15L;

    private Data() {}

    /** The finaliser of splitmix64. */
    static long mix(long word) {
        word = (word ^ (word >>> 30)) * 0xBF58476D1CE4E5B9L;
        word = (word ^ (word >>> 27)) * 0x94D049BB133111EBL;
        return word ^ (word >>> 31);
    }

    static Event[] events(String row, int count) {
        Event[] events = new Event[count];
        String[] names = new String[Math.max(1 << 14, count / 4 + 1)];
        for (int number = 0; number < names.length; number++) {
            names[number] = "k" + number;
        }
        for (int number = 0; number < count; number++) {
            events[number] = event(row, number, names);
        }
        return events;
    }

    private static Event event(String row, long number, String[] names) {
        long word = mix((number + 1) * GOLDEN);
        long low = word & 0xFFFF;
        long middle = (word >>> 16) & 0xFFFFFF;
        long high = word >>> 40;
        double value = low % 400 * 0.25;
        switch (row) {
            case "seq2":
                return new Event(names[(int) (high % 1_000)], (int) (middle % 400), value, START + number * 5 + low % 5);
            case "count":
                return new Event(names[(int) (high % 10_000)], middle % 10 == 0 ? 1 : 0, value, START + number * 2 + low % 2);
            case "absence":
                return order(number, value, START + number * 5 + low % 5, names);
            case "kleene":
                return new Event(names[(int) (high % 1_000)], 0, value, START + number * 5 + low % 5);
            case "dense":
                return new Event(names[(int) (high % 1_000)], (int) (middle % 4), value, START + number * 5 + low % 5);
            case "pairs":
                return new Event(names[(int) (high % 10)], 0, value, START + number * 10 + low % 10);
            default:
                throw new IllegalArgumentException("no row " + row);
        }
    }

    /**
     * Four events an order: placed, viewed, paid, viewed. The order that is paid was placed by a multiple of 64 orders earlier, which
     * depends on its number: two classes of 64 are never paid, one is paid too late, the others in time.
     */
    private static Event order(long number, double value, long time, String[] names) {
        long order = number / 4;
        int kind = (int) (number % 4);
        if (kind == 2) {
            long residue = order % 64;
            long paid = order - 64 * (residue == 2 ? 800 : residue * 10);
            if (residue >= 2 && paid >= 0) {
                return new Event(names[(int) paid], 1, value, time);
            }
        }
        return new Event(names[(int) order], kind == 0 ? 0 : 2, value, time);
    }

    static byte[][] lines(String file) throws IOException {
        byte[] all = Files.readAllBytes(Path.of(file));
        List<byte[]> lines = new ArrayList<>();
        int began = 0;
        for (int at = 0; at < all.length; at++) {
            if (all[at] == '\n') {
                lines.add(java.util.Arrays.copyOfRange(all, began, at));
                began = at + 1;
            }
        }
        return lines.toArray(new byte[0][]);
    }

    private static final JsonFactory JSON = new JsonFactory();

    /** By Jackson's streaming parser: the quickest way that it has. */
    static Event parse(byte[] line) throws IOException {
        String key = null;
        int kind = 0;
        double value = 0;
        long time = 0;
        try (JsonParser parser = JSON.createParser(line)) {
            parser.nextToken();
            while (parser.nextToken() != JsonToken.END_OBJECT) {
                String name = parser.currentName();
                parser.nextToken();
                switch (name) {
                    case "card":
                        key = parser.getText();
                        break;
                    case "kind":
                        kind = parser.getIntValue();
                        break;
                    case "value":
                        value = parser.getDoubleValue();
                        break;
                    default:
                        time = parser.getLongValue();
                }
            }
        }
        return new Event(key, kind, value, time);
    }
}
