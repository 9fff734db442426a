package bench;

import java.util.List;
import java.util.Map;
import org.apache.flink.cep.functions.PatternProcessFunction;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.conditions.IterativeCondition;
import org.apache.flink.cep.pattern.conditions.SimpleCondition;
import org.apache.flink.util.Collector;

import java.time.Duration;

/** The pattern of each row. */
final class FlinkPatterns {
    private FlinkPatterns() {}

    static Pattern<Event, ?> of(String row) {
        switch (row) {
            case "seq2":
                return Pattern.<Event>begin("a")
                        .where(kind(1))
                        .followedBy("b")
                        .where(kind(2))
                        .within(Duration.ofMinutes(30));
            case "count":
                return Pattern.<Event>begin("failed")
                        .where(kind(1))
                        .times(5)
                        .followedBy("ok")
                        .where(kind(0))
                        .within(Duration.ofMinutes(5));
            case "absence":
                return Pattern.<Event>begin("placed")
                        .where(kind(0))
                        .notFollowedBy("paid")
                        .where(kind(1))
                        .within(Duration.ofMinutes(15));
            case "kleene":
                return Pattern.<Event>begin("first", AfterMatchSkipStrategy.skipPastLastEvent())
                        .where(SimpleCondition.of(event -> true))
                        .next("rising")
                        .where(new Rising())
                        .timesOrMore(2)
                        .consecutive()
                        .greedy()
                        .next("fall")
                        .where(new Fall())
                        .within(Duration.ofMinutes(1));
            case "dense":
                return Pattern.<Event>begin("a")
                        .where(kind(0))
                        .followedBy("b")
                        .where(kind(1))
                        .followedBy("c")
                        .where(kind(2))
                        .followedBy("d")
                        .where(kind(3))
                        .within(Duration.ofMinutes(1));
            case "pairs":
                return Pattern.<Event>begin("a")
                        .where(SimpleCondition.of(event -> true))
                        .followedByAny("b")
                        .where(SimpleCondition.of(event -> true))
                        .within(Duration.ofSeconds(10));
            default:
                throw new IllegalArgumentException("no row " + row);
        }
    }

    private static SimpleCondition<Event> kind(int kind) {
        return SimpleCondition.of(event -> event.kind == kind);
    }

    /** Higher than the one before: the last of the run, or the first event. */
    private static final class Rising extends IterativeCondition<Event> {
        @Override
        public boolean filter(Event event, Context<Event> context) throws Exception {
            Event last = null;
            for (Event risen : context.getEventsForPattern("rising")) {
                last = risen;
            }
            if (last == null) {
                last = context.getEventsForPattern("first").iterator().next();
            }
            return event.value > last.value;
        }
    }

    /** Not higher than the last of a run whose values have a sum above 150. */
    private static final class Fall extends IterativeCondition<Event> {
        @Override
        public boolean filter(Event event, Context<Event> context) throws Exception {
            Event last = null;
            double sum = 0;
            for (Event risen : context.getEventsForPattern("rising")) {
                last = risen;
                sum += risen.value;
            }
            return last != null && event.value <= last.value && sum > 150;
        }
    }

    /** Makes the digest of a match. */
    static final class Found extends PatternProcessFunction<Event, Long> {
        @Override
        public void processMatch(Map<String, List<Event>> match, Context context, Collector<Long> out) {
            long sum = 0;
            for (List<Event> step : match.values()) { // in the order of the pattern: the map is a linked one
                for (Event event : step) {
                    sum = Tally.fold(sum, event.time);
                }
            }
            out.collect(sum);
        }
    }
}
