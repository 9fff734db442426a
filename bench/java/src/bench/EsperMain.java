package bench;

import com.espertech.esper.common.client.EPCompiled;
import com.espertech.esper.common.client.EventBean;
import com.espertech.esper.common.client.configuration.Configuration;
import com.espertech.esper.compiler.client.CompilerArguments;
import com.espertech.esper.compiler.client.EPCompilerProvider;
import com.espertech.esper.runtime.client.EPEventService;
import com.espertech.esper.runtime.client.EPRuntime;
import com.espertech.esper.runtime.client.EPRuntimeProvider;

/**
 * One row on Esper, by one thread: `EsperMain ROW EVENTS ROUNDS [json=FILE]`. The events are in memory before the clock starts. A round is
 * a new runtime, for which Esper writes its code anew, so that the JVM has to compile that again: the time is twice that of the second
 * half of the events, when it has. Round 0 warms up as well.
 */
public final class EsperMain {
    private EsperMain() {}

    public static void main(String[] arguments) throws Exception {
        String row = arguments[0];
        int count = Integer.parseInt(arguments[1]);
        int rounds = Integer.parseInt(arguments[2]);
        byte[][] lines = arguments.length > 3 ? Data.lines(arguments[3].substring("json=".length())) : null;
        Event[] events = lines == null ? Data.events(row, count) : null;
        for (int round = 0; round <= rounds; round++) {
            Tally.clear();
            double seconds = run(row, count, events, lines);
            Tally.print(round, count, seconds);
        }
    }

    private static double run(String row, int count, Event[] events, byte[][] lines) throws Exception {
        Configuration configuration = new Configuration();
        configuration.getCommon().addEventType(Event.class);
        configuration.getRuntime().getThreading().setInternalTimerEnabled(false);
        configuration.getRuntime().getThreading().setListenerDispatchPreserveOrder(false);
        configuration.getRuntime().getThreading().setInsertIntoDispatchPreserveOrder(false);
        EPCompiled compiled =
                EPCompilerProvider.getCompiler().compile(statement(row), new CompilerArguments(configuration));
        EPRuntime runtime = EPRuntimeProvider.getRuntime("bench", configuration);
        runtime.initialize();
        EPEventService service = runtime.getEventService();
        service.advanceTime(Data.START);
        runtime.getDeploymentService().deploy(compiled).getStatements()[0].addListener(
                (fresh, old, by, of) -> {
                    for (EventBean match : fresh) {
                        found(match);
                    }
                });
        long began = System.nanoTime();
        for (int number = 0; number < count; number++) {
            if (number == count / 2) {
                began = System.nanoTime();
            }
            Event event = events == null ? Data.parse(lines[number]) : events[number];
            service.advanceTime(event.time);
            service.sendEventBean(event, "Event");
        }
        service.advanceTime(Data.START + 100_000 * Data.MINUTE);
        double seconds = 2 * (System.nanoTime() - began) / 1e9;
        runtime.destroy();
        return seconds;
    }

    private static String statement(String row) {
        switch (row) {
            case "seq2":
                return "select * from pattern [every a=Event(kind=1)"
                        + " -> (b=Event(kind=2, key=a.key) where timer:within(30 minutes))]";
            case "count":
                return "select * from pattern [every a=Event(kind=1)"
                        + " -> (([4] more=Event(kind=1, key=a.key) -> ok=Event(kind=0, key=a.key)) where timer:within(5 minutes))]";
            case "absence":
                return "select * from pattern [every a=Event(kind=0)"
                        + " -> (timer:interval(15 minutes) and not Event(kind=1, key=a.key))]";
            default:
                throw new IllegalArgumentException("no row " + row);
        }
    }

    private static void found(EventBean match) {
        long sum = 0;
        for (String step : new String[] {"a", "more", "b", "ok"}) {
            if (!match.getEventType().isProperty(step)) {
                continue;
            }
            Object bound = match.get(step);
            if (bound instanceof Event[]) {
                for (Event event : (Event[]) bound) {
                    sum = Tally.fold(sum, event.time);
                }
            } else {
                sum = Tally.fold(sum, ((Event) bound).time);
            }
        }
        Tally.COUNT.incrementAndGet();
        Tally.DIGEST.addAndGet(sum);
    }
}
