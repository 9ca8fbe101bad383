import java.io.FileOutputStream;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/**
 * A JVM with args[0] MiB of arrays of random length and content. Short-lived threads leave the rest of their allocation
 * buffers behind, each filled with one array of which HotSpot writes the header only.
 */
public class Heap {
    static final List<Object> live = new ArrayList<>();

    static void allocateInAThread() throws InterruptedException {
        Thread thread = new Thread(() -> live.add(new long[30]));
        thread.start();
        thread.join();
    }

    public static void main(String[] arguments) throws Exception {
        Random random = new Random(1);
        for (int i = 0; i < 2; i++) {
            allocateInAThread();
        }
        for (long left = Long.parseLong(arguments[0]) << 20; left > 0; ) {
            byte[] array = new byte[16 + random.nextInt(4096)];
            random.nextBytes(array);
            live.add(array);
            left -= array.length + 16;
        }
        allocateInAThread();
        try (OutputStream ready = new FileOutputStream("/proc/self/fd/" + System.getenv("TARGET_READY"))) {
            ready.write("ready\n".getBytes());
        }
        Thread.sleep(Long.MAX_VALUE);
    }
}
