package bench;

import java.io.IOException;
import java.io.Serializable;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.FilterFunction;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.cep.CEP;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.datagen.source.GeneratorFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * One row on Flink CEP: `FlinkMain ROW EVENTS ROUNDS PARALLELISM WATERMARK_MILLISECONDS [json=FILE] [filtered]`. The events are in
 * memory before the clock starts. A round is one job; its time is from the first event to the end of the sink, so that starting
 * and ending the job does not count. Round 0 warms up.
 */
public final class FlinkMain {
    static Event[] events;
    static byte[][] lines;

    private FlinkMain() {}

    public static void main(String[] arguments) throws Exception {
        String row = arguments[0];
        int count = Integer.parseInt(arguments[1]);
        int rounds = Integer.parseInt(arguments[2]);
        int parallelism = Integer.parseInt(arguments[3]);
        long watermark = Long.parseLong(arguments[4]);
        boolean filtered = false;
        for (int at = 5; at < arguments.length; at++) {
            filtered |= arguments[at].equals("filtered");
            if (arguments[at].startsWith("json=")) {
                lines = Data.lines(arguments[at].substring(5));
            }
        }
        if (lines == null) {
            events = Data.events(row, count);
        }
        for (int round = 0; round <= rounds; round++) {
            Tally.clear();
            run(row, count, parallelism, watermark, filtered);
            Tally.print(round, count, (Tally.ended - Tally.began) / 1e9);
        }
    }

    private static void run(String row, int count, int parallelism, long watermark, boolean filtered) throws Exception {
        Configuration configuration = new Configuration();
        configuration.set(PipelineOptions.OBJECT_REUSE, true);
        configuration.set(PipelineOptions.GENERIC_TYPES, false); // an error where Kryo would be used
        configuration.set(PipelineOptions.AUTO_WATERMARK_INTERVAL, Duration.ofMillis(watermark));
        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(parallelism, configuration);
        DataStream<Event> stream = source(environment, count, parallelism);
        if (filtered) {
            stream = stream.filter(new Relevant());
        }
        CEP.pattern(stream.keyBy(event -> event.key), FlinkPatterns.of(row))
                .inEventTime()
                .process(new FlinkPatterns.Found())
                .returns(Types.LONG)
                .sinkTo(new Summing());
        environment.execute(row);
    }

    private static DataStream<Event> source(StreamExecutionEnvironment environment, int count, int parallelism) {
        WatermarkStrategy<Event> times =
                WatermarkStrategy.<Event>forMonotonousTimestamps().withTimestampAssigner((event, before) -> event.time);
        if (lines == null) {
            return environment.fromSource(
                    new DataGeneratorSource<>(
                            new Taking(count, parallelism),
                            count,
                            RateLimiterStrategy.noOp(),
                            new Event.Information()),
                    times,
                    "events");
        }
        return environment
                .fromSource(
                        new DataGeneratorSource<>(
                                new TakingLines(count, parallelism),
                                count,
                                RateLimiterStrategy.noOp(),
                                PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO),
                        WatermarkStrategy.noWatermarks(),
                        "lines")
                .map(new Parsing())
                .returns(new Event.Information())
                .assignTimestampsAndWatermarks(times);
    }

    /**
     * Each of the sources gets a range of numbers; this makes it every second event instead, so that time goes on evenly in both.
     */
    private static int interleaved(long number, int count, int parallelism) {
        if (number == 0) {
            Tally.began = System.nanoTime();
        }
        int range = count / parallelism;
        return (int) (number % range * parallelism + number / range);
    }

    private static final class Taking implements GeneratorFunction<Long, Event> {
        private final int count;
        private final int parallelism;

        Taking(int count, int parallelism) {
            this.count = count;
            this.parallelism = parallelism;
        }

        @Override
        public Event map(Long number) {
            return events[interleaved(number, count, parallelism)];
        }
    }

    private static final class TakingLines implements GeneratorFunction<Long, byte[]> {
        private final int count;
        private final int parallelism;

        TakingLines(int count, int parallelism) {
            this.count = count;
            this.parallelism = parallelism;
        }

        @Override
        public byte[] map(Long number) {
            return lines[interleaved(number, count, parallelism)];
        }
    }

    private static final class Parsing implements MapFunction<byte[], Event> {
        @Override
        public Event map(byte[] line) throws IOException {
            return Data.parse(line);
        }
    }

    /** What a user of Flink may write by hand before a pattern that looks at few events: no other kind can take part. */
    private static final class Relevant implements FilterFunction<Event> {
        @Override
        public boolean filter(Event event) {
            return event.kind == 1 || event.kind == 2;
        }
    }

    private static final class Summing implements Sink<Long>, Serializable {
        @Override
        public SinkWriter<Long> createWriter(WriterInitContext context) {
            return new Writer();
        }
    }

    private static final class Writer implements SinkWriter<Long> {
        private long count;
        private long digest;

        @Override
        public void write(Long match, Context context) {
            count++;
            digest += match;
        }

        @Override
        public void flush(boolean end) {
            if (end) {
                Tally.COUNT.addAndGet(count);
                Tally.DIGEST.addAndGet(digest);
                Tally.ended = System.nanoTime();
            }
        }

        @Override
        public void close() {}
    }
}
