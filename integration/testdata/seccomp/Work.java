import java.nio.file.*;
import java.util.concurrent.*;
import java.util.stream.*;

/** A Java program's day. */
public class Work {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        long sum = 0;
        for (Future<Long> f : pool.invokeAll(Stream.of(1L, 2L, 3L, 4L)
                .map(n -> (Callable<Long>) () -> LongStream.range(0, 100000).map(i -> i * n % 7).sum()).collect(Collectors.toList())))
            sum += f.get();
        pool.shutdown();
        Path file = Files.createTempFile("work", ".txt");
        Files.writeString(file, "sum " + sum);
        if (!Files.readString(file).startsWith("sum ")) throw new Exception("file");
        Files.delete(file);
        System.gc();
        System.out.println("done");
    }
}
