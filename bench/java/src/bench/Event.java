package bench;

import java.io.IOException;
import java.lang.reflect.Type;
import java.util.Map;
import org.apache.flink.api.common.serialization.SerializerConfig;
import org.apache.flink.api.common.typeinfo.TypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInfoFactory;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.types.StringValue;

/**
 * One event of every row. Its time is its own: no two events of a row have the same. It is never changed, so that nothing copies
 * it, and Flink serialises it by the code below, not by Kryo or by reflection.
 */
@TypeInfo(Event.Factory.class)
public final class Event {
    public final String key;
    public final int kind;
    public final double value;
    public final long time;

    public Event(String key, int kind, double value, long time) {
        this.key = key;
        this.kind = kind;
        this.value = value;
        this.time = time;
    }

    // Esper reads the fields of beans by these.
    public String getKey() {
        return key;
    }

    public int getKind() {
        return kind;
    }

    public double getValue() {
        return value;
    }

    public long getTime() {
        return time;
    }

    // Flink's buffer looks events up by both; times are unique, so this is right and quick.
    @Override
    public boolean equals(Object other) {
        return other instanceof Event && ((Event) other).time == time;
    }

    @Override
    public int hashCode() {
        return Long.hashCode(time);
    }

    public static final class Factory extends TypeInfoFactory<Event> {
        @Override
        public TypeInformation<Event> createTypeInfo(Type type, Map<String, TypeInformation<?>> parameters) {
            return new Information();
        }
    }

    public static final class Information extends TypeInformation<Event> {
        @Override
        public boolean isBasicType() {
            return false;
        }

        @Override
        public boolean isTupleType() {
            return false;
        }

        @Override
        public int getArity() {
            return 1;
        }

        @Override
        public int getTotalFields() {
            return 1;
        }

        @Override
        public Class<Event> getTypeClass() {
            return Event.class;
        }

        @Override
        public boolean isKeyType() {
            return false;
        }

        @Override
        public TypeSerializer<Event> createSerializer(SerializerConfig config) {
            return Serializer.INSTANCE;
        }

        @Override
        public String toString() {
            return "Event";
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Information;
        }

        @Override
        public int hashCode() {
            return 1;
        }

        @Override
        public boolean canEqual(Object other) {
            return other instanceof Information;
        }
    }

    public static final class Serializer extends TypeSerializerSingleton<Event> {
        static final Serializer INSTANCE = new Serializer();

        @Override
        public boolean isImmutableType() {
            return true;
        }

        @Override
        public Event createInstance() {
            return new Event("", 0, 0, 0);
        }

        @Override
        public Event copy(Event from) {
            return from;
        }

        @Override
        public Event copy(Event from, Event reuse) {
            return from;
        }

        @Override
        public int getLength() {
            return -1;
        }

        @Override
        public void serialize(Event event, DataOutputView target) throws IOException {
            StringValue.writeString(event.key, target);
            target.writeInt(event.kind);
            target.writeDouble(event.value);
            target.writeLong(event.time);
        }

        @Override
        public Event deserialize(DataInputView source) throws IOException {
            return new Event(StringValue.readString(source), source.readInt(), source.readDouble(), source.readLong());
        }

        @Override
        public Event deserialize(Event reuse, DataInputView source) throws IOException {
            return deserialize(source);
        }

        @Override
        public void copy(DataInputView source, DataOutputView target) throws IOException {
            serialize(deserialize(source), target);
        }

        @Override
        public TypeSerializerSnapshot<Event> snapshotConfiguration() {
            return new Snapshot();
        }

        public static final class Snapshot extends SimpleTypeSerializerSnapshot<Event> {
            public Snapshot() {
                super(() -> INSTANCE);
            }
        }
    }
}
