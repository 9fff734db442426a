package bench;

import java.util.concurrent.atomic.AtomicLong;

/** How many matches there were, and the sum of what each of them is: the same for the same set, whatever their order. */
final class Tally {
    static final AtomicLong COUNT = new AtomicLong();
    static final AtomicLong DIGEST = new AtomicLong();
    static volatile long began;
    static volatile long ended;

    private Tally() {}

    static void clear() {
        COUNT.set(0);
        DIGEST.set(0);
        began = 0;
        ended = 0;
    }

    /** What a match is: the times of its events, in the order of the pattern. */
    static long fold(long sum, long time) {
        return Data.mix(sum + time);
    }

    static void print(int round, int events, double seconds) {
        System.out.printf(
                "{\"round\": %d, \"per_second\": %.1f, \"matches\": %d, \"digest\": \"%016x\"}%n",
                round, events / seconds, COUNT.get(), DIGEST.get());
    }
}
