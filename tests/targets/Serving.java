import com.sun.net.httpserver.HttpServer;
import java.io.FileOutputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/** An HTTP server: GET /N is answered with the SHA-256 of N in hexadecimal. What goes wrong is printed as ERROR. */
public class Serving {
    static final int BLOCKS = 256;
    static final int WORDS = 1 << 14;

    static byte[] digest(String number) throws Exception {
        StringBuilder text = new StringBuilder();
        for (byte one : MessageDigest.getInstance("SHA-256").digest(number.getBytes(StandardCharsets.US_ASCII))) {
            text.append(String.format("%02x", one));
        }
        return text.toString().getBytes(StandardCharsets.US_ASCII);
    }

    /** 16 MiB are always in use, each block filled with one number, looked through before it is dropped. */
    static void allocate() {
        int[][] blocks = new int[BLOCKS][];
        for (int round = 0; ; round++) {
            if (round % 4 == 0) {
                LockSupport.parkNanos(1_000_000); // 200 MB/s are garbage enough
            }
            int[] old = blocks[round % BLOCKS];
            int expected = round - BLOCKS;
            if (old != null && Arrays.stream(old).anyMatch(word -> word != expected)) {
                System.out.println("ERROR: a block of round " + expected + " holds something else");
            }
            int[] fresh = new int[WORDS];
            Arrays.fill(fresh, round);
            blocks[round % BLOCKS] = fresh;
        }
    }

    /** No sleep ends early, none is interrupted. */
    static void sleepOften() {
        for (;;) {
            long before = System.nanoTime();
            try {
                Thread.sleep(2);
            } catch (InterruptedException error) {
                System.out.println("ERROR: " + error);
            }
            if (System.nanoTime() - before < TimeUnit.MILLISECONDS.toNanos(2)) {
                System.out.println("ERROR: slept for less than 2 ms");
            }
        }
    }

    static void background(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        thread.setUncaughtExceptionHandler((failed, error) -> System.out.println("ERROR: " + error));
        thread.start();
    }

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 16);
        server.createContext("/", exchange -> {
            try {
                byte[] answer = digest(exchange.getRequestURI().getPath().substring(1));
                exchange.sendResponseHeaders(200, answer.length);
                exchange.getResponseBody().write(answer);
            } catch (Exception error) {
                System.out.println("ERROR: " + error);
            } finally {
                exchange.close();
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
        background(Serving::sleepOften);
        if (arguments.length > 0 && arguments[0].equals("allocate")) {
            background(Serving::allocate);
        }
        try (OutputStream ready = new FileOutputStream("/proc/self/fd/" + System.getenv("TARGET_READY"))) {
            ready.write(("port=" + server.getAddress().getPort() + "\nready\n").getBytes(StandardCharsets.US_ASCII));
        }
    }
}
