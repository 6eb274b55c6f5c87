// A reader in Java with Avro and kafka-clients, made from docs/format.md alone. Prints a line of JSON per record or end, in the order of each
// partition: pass, sequence, and per key the rows, each as its elements.
//
// java -cp JARS Reader.java BOOTSTRAP REGISTRY TOPIC

import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Reader {
    static final ObjectMapper JSON = new ObjectMapper();
    static final Map<Integer, Schema> SCHEMAS = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0], "enable.auto.commit", "false");
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(arguments[2]).forEach(found -> partitions.add(new TopicPartition(arguments[2], found.partition())));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                if (System.nanoTime() > deadline) throw new IllegalStateException("the topic was not read within 60 s");
                for (ConsumerRecord<byte[], byte[]> message : consumer.poll(Duration.ofMillis(500))) print(message, arguments[1]);
            }
        }
    }

    static void print(ConsumerRecord<byte[], byte[]> message, String registry) throws Exception {
        ByteBuffer value = ByteBuffer.wrap(message.value());
        if (value.get() != 0) throw new IllegalStateException("no zero byte begins the value");
        Schema schema = schema(registry, value.getInt());
        BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(message.value(), 5, message.value().length - 5, null);
        GenericRecord record = new GenericDatumReader<GenericRecord>(schema).read(null, decoder);
        if (!decoder.isEnd()) throw new IllegalStateException("bytes are left behind the record");
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("partition", message.partition());
        line.put("format", JSON.readValue(message.headers().lastHeader("tutelage.format").value(), Object.class));
        line.put("pass", record.get("pass_index"));
        line.put("sequence", record.get("sequence"));
        GenericRecord end = (GenericRecord) record.get("end");
        line.put("end", end == null ? null : List.of(end.get("records"), end.get("rows")));
        Map<String, Object> keys = new LinkedHashMap<>();
        for (Schema.Field field : schema.getFields()) {
            if (end != null || field.getObjectProp("key") == null) continue;
            keys.put((String) field.getObjectProp("key"), rows(field, (GenericRecord) record.get(field.name()), (int) record.get("rows")));
        }
        line.put("keys", keys);
        System.out.println(JSON.writeValueAsString(line));
    }

    static List<List<Object>> rows(Schema.Field field, GenericRecord tensor, int rows) {
        List<?> shape = (List<?>) field.getObjectProp("shape");
        boolean ragged = !shape.isEmpty() && ((Number) shape.get(0)).intValue() == -1;
        int each = 1;
        for (Object size : shape.subList(ragged ? 1 : 0, shape.size())) each *= ((Number) size).intValue();
        ByteBuffer data = ((ByteBuffer) tensor.get("data")).order(ByteOrder.LITTLE_ENDIAN);
        ByteBuffer lengths = ragged ? ((ByteBuffer) tensor.get("lengths")).order(ByteOrder.LITTLE_ENDIAN) : null;
        List<List<Object>> found = new ArrayList<>();
        for (int row = 0; row < rows; row++) {
            List<Object> elements = new ArrayList<>();
            for (int left = each * (ragged ? lengths.getInt() : 1); left > 0; left--) elements.add(element(field, data));
            found.add(elements);
        }
        if (data.hasRemaining()) throw new IllegalStateException("elements are left behind the rows of " + field.name());
        return found;
    }

    static Object element(Schema.Field field, ByteBuffer data) {
        String wire = (String) field.getObjectProp("wire");
        switch (wire) {
            case "int64": return data.getLong();
            case "int32": return data.getInt();
            case "float32": return data.getFloat();
            case "float16": return half(data.getShort());
            default: throw new IllegalStateException("no elements of " + wire + " are read here");
        }
    }

    /** A float16 of ordinary size; Java learned to read them in version 20. */
    static double half(short bits) {
        int exponent = (bits >> 10) & 31, fraction = bits & 1023;
        double size = exponent == 0 ? fraction * 0x1p-24 : (1024 + fraction) * Math.pow(2, exponent - 25);
        return bits < 0 ? -size : size;
    }

    static Schema schema(String registry, int id) throws Exception {
        Schema known = SCHEMAS.get(id);
        if (known != null) return known;
        HttpRequest request = HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)).timeout(Duration.ofSeconds(20)).build();
        String answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body();
        Schema schema = new Schema.Parser().parse((String) JSON.readValue(answer, Map.class).get("schema"));
        SCHEMAS.put(id, schema);
        return schema;
    }
}
