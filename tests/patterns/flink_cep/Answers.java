import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.Serializable;
import java.lang.reflect.Proxy;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.flink.api.common.state.KeyedStateStore;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.cep.configuration.SharedBufferCacheConfig;
import org.apache.flink.cep.nfa.NFA;
import org.apache.flink.cep.nfa.NFAState;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.nfa.compiler.NFACompiler;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBuffer;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBufferAccessor;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.WithinType;
import org.apache.flink.cep.pattern.conditions.IterativeCondition;

/**
 * Asks Flink CEP's own automaton. Reads lines: `pattern SKIP STEP WITHIN`, its steps, `event KIND VALUE TIME`, `run OVER`; writes what
 * comes of it as `match NAME=1,2;...`, `timeout DEADLINE NAME=1;...`, `refused WHY`, and `done`.
 */
public class Answers {
    public static class Letter implements Serializable {
        public int position;
        public String kind;
        public int value;
        public long time;

        public Letter() {}
    }

    record Step(String[] words) {
        String get(String name) {
            for (String word : words) {
                if (word.startsWith(name + "=")) {
                    return word.substring(name.length() + 1);
                }
            }
            return "";
        }
    }

    static IterativeCondition<Letter> condition(String kinds, String more) {
        return new IterativeCondition<>() {
            @Override
            public boolean filter(Letter letter, Context<Letter> context) throws Exception {
                if (!kinds.contains(letter.kind)) {
                    return false;
                }
                if (more.isEmpty()) {
                    return true;
                }
                Letter last = null;
                for (Letter one : context.getEventsForPattern(more)) {
                    last = one;
                }
                return last == null || letter.value > last.value;
            }
        };
    }

    static Pattern<Letter, Letter> with(Pattern<Letter, Letter> pattern, Step step, boolean group) {
        if (!group) {
            pattern = pattern.where(condition(step.get("kinds"), step.get("more")));
        }
        int low = Integer.parseInt(step.get("low"));
        String high = step.get("high");
        boolean single = high.equals("1") && low <= 1;
        if (!single) {
            int least = Math.max(low, 1);
            pattern = high.isEmpty() ? (least == 1 ? pattern.oneOrMore() : pattern.timesOrMore(least))
                : least == Integer.parseInt(high) ? pattern.times(least) : pattern.times(least, Integer.parseInt(high));
            if (step.get("inner").equals("strict")) {
                pattern = pattern.consecutive();
            }
            if (step.get("inner").equals("any")) {
                pattern = pattern.allowCombinations();
            }
            if (step.get("greedy").equals("1")) {
                pattern = pattern.greedy();
            }
            if (!step.get("until").isEmpty()) {
                pattern = pattern.until(condition(step.get("until"), ""));
            }
        }
        if (!step.get("within").isEmpty()) {
            pattern = pattern.within(Duration.ofMillis(Long.parseLong(step.get("within"))), WithinType.PREVIOUS_AND_CURRENT);
        }
        return low == 0 ? pattern.optional() : pattern;
    }

    @SuppressWarnings("unchecked")
    static Pattern<Letter, Letter> read(Deque<Step> steps, AfterMatchSkipStrategy skip) {
        Pattern<Letter, Letter> pattern = null;
        while (!steps.isEmpty()) {
            Step step = steps.poll();
            String word = step.words[0];
            if (word.equals("end")) {
                return pattern;
            }
            String name = step.get("name");
            String contiguity = step.get("contiguity");
            if (word.equals("group")) {
                Pattern<Letter, Letter> inside = read(steps, skip);
                Pattern<Letter, Letter> group = pattern == null ? (Pattern) Pattern.begin(inside, skip)
                    : contiguity.equals("strict") ? (Pattern) pattern.next(inside)
                    : contiguity.equals("any") ? (Pattern) pattern.followedByAny(inside) : (Pattern) pattern.followedBy(inside);
                pattern = with(group, step, true);
            } else if (word.equals("absent")) {
                pattern = contiguity.equals("strict") ? pattern.notNext(name) : pattern.notFollowedBy(name);
                pattern = pattern.where(condition(step.get("kinds"), step.get("more")));
            } else {
                pattern = pattern == null ? Pattern.<Letter>begin(name, skip)
                    : contiguity.equals("strict") ? pattern.next(name)
                    : contiguity.equals("any") ? pattern.followedByAny(name) : pattern.followedBy(name);
                pattern = with(pattern, step, false);
            }
        }
        return pattern;
    }

    static AfterMatchSkipStrategy skip(String to, String step) {
        return switch (to) {
            case "next" -> AfterMatchSkipStrategy.skipToNext();
            case "past_last" -> AfterMatchSkipStrategy.skipPastLastEvent();
            case "first" -> AfterMatchSkipStrategy.skipToFirst(step);
            case "last" -> AfterMatchSkipStrategy.skipToLast(step);
            default -> AfterMatchSkipStrategy.noSkip();
        };
    }

    @SuppressWarnings("unchecked")
    static MapState<Object, Object> map() {
        Map<Object, Object> kept = new HashMap<>();
        return (MapState<Object, Object>) Proxy.newProxyInstance(Answers.class.getClassLoader(), new Class<?>[] {MapState.class}, (proxy, method, given) ->
            switch (method.getName()) {
                case "get" -> kept.get(given[0]);
                case "put" -> kept.put(given[0], given[1]);
                case "putAll" -> { kept.putAll((Map<Object, Object>) given[0]); yield null; }
                case "remove" -> kept.remove(given[0]);
                case "contains" -> kept.containsKey(given[0]);
                case "entries" -> kept.entrySet();
                case "keys" -> kept.keySet();
                case "values" -> kept.values();
                case "iterator" -> kept.entrySet().iterator();
                case "isEmpty" -> kept.isEmpty();
                case "clear" -> { kept.clear(); yield null; }
                default -> throw new UnsupportedOperationException(method.getName());
            });
    }

    static KeyedStateStore store() {
        return (KeyedStateStore) Proxy.newProxyInstance(Answers.class.getClassLoader(), new Class<?>[] {KeyedStateStore.class}, (proxy, method, given) -> {
            if (method.getName().equals("getMapState") && given[0] instanceof MapStateDescriptor) {
                return map();
            }
            if (method.getName().equals("getState")) {
                Object[] kept = new Object[1];
                return Proxy.newProxyInstance(Answers.class.getClassLoader(), new Class<?>[] {ValueState.class}, (one, asked, with) ->
                    switch (asked.getName()) {
                        case "value" -> kept[0];
                        case "update" -> { kept[0] = with[0]; yield null; }
                        default -> { kept[0] = null; yield null; }
                    });
            }
            throw new UnsupportedOperationException(method.getName());
        });
    }

    static void told(String word, Map<String, List<Letter>> match) {
        StringBuilder line = new StringBuilder(word);
        for (Map.Entry<String, List<Letter>> entry : new java.util.TreeMap<>(match).entrySet()) {
            line.append(' ').append(entry.getKey()).append('=');
            for (int at = 0; at < entry.getValue().size(); at++) {
                line.append(at == 0 ? "" : ",").append(entry.getValue().get(at).position);
            }
        }
        System.out.println(line);
    }

    static void run(Pattern<Letter, Letter> pattern, List<Letter> letters, long over) throws Exception {
        AfterMatchSkipStrategy skip = pattern.getAfterMatchSkipStrategy();
        NFA<Letter> nfa = NFACompiler.compileFactory(pattern, true).createNFA();
        NFAState state = nfa.createInitialNFAState();
        SharedBuffer<Letter> buffer = new SharedBuffer<>(store(), TypeInformation.of(Letter.class).createSerializer(new SerializerConfigImpl()), new SharedBufferCacheConfig(1000, 1000, Duration.ofHours(1)));
        TreeSet<Long> timers = new TreeSet<>();
        for (Letter letter : letters) {
            pass(nfa, state, buffer, skip, timers, letter.time);
            advance(nfa, state, buffer, skip, letter.time);
            state.resetNewStartPartialMatch();
            Collection<Map<String, List<Letter>>> found;
            try (SharedBufferAccessor<Letter> accessor = buffer.getAccessor()) {
                found = nfa.process(accessor, state, letter, letter.time, skip, () -> 0L);
            }
            for (Map<String, List<Letter>> match : found) {
                told("match", match);
            }
            if (state.isNewStartPartialMatch() && nfa.getWindowTime() > 0) {
                timers.add(letter.time + nfa.getWindowTime());
            }
        }
        pass(nfa, state, buffer, skip, timers, over);
        buffer.releaseCacheStatisticsTimer();
    }

    static void pass(NFA<Letter> nfa, NFAState state, SharedBuffer<Letter> buffer, AfterMatchSkipStrategy skip, TreeSet<Long> timers, long time) throws Exception {
        while (!timers.isEmpty() && timers.first() <= time) {
            advance(nfa, state, buffer, skip, timers.pollFirst());
        }
    }

    static void advance(NFA<Letter> nfa, NFAState state, SharedBuffer<Letter> buffer, AfterMatchSkipStrategy skip, long time) throws Exception {
        try (SharedBufferAccessor<Letter> accessor = buffer.getAccessor()) {
            var answer = nfa.advanceTime(accessor, state, time, skip);
            for (Map<String, List<Letter>> match : answer.f0) {
                told("match", match);
            }
            for (var partial : answer.f1) {
                told("timeout " + partial.f1, partial.f0);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        Deque<Step> steps = new ArrayDeque<>();
        List<Letter> letters = new java.util.ArrayList<>();
        String[] head = new String[0];
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.trim().split(" ");
            switch (words[0]) {
                case "pattern" -> {
                    head = words;
                    steps.clear();
                    letters.clear();
                }
                case "event" -> {
                    Letter letter = new Letter();
                    letter.position = letters.size() + 1;
                    letter.kind = words[1];
                    letter.value = Integer.parseInt(words[2]);
                    letter.time = Long.parseLong(words[3]);
                    letters.add(letter);
                }
                case "run" -> {
                    try {
                        Pattern<Letter, Letter> pattern = read(steps, skip(head[1], head[2]));
                        if (!head[3].equals("-")) {
                            pattern = pattern.within(Duration.ofMillis(Long.parseLong(head[3])));
                        }
                        run(pattern, letters, Long.parseLong(words[1]));
                    } catch (Exception error) {
                        System.out.println("refused " + error.toString().replace('\n', ' '));
                    }
                    System.out.println("done");
                }
                default -> steps.add(new Step(words));
            }
        }
    }
}
