import java.io.FileOutputStream;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;

/** A JVM with three threads in methods of known names and 12345 objects of a known class. */
public class Held {
    static final class Marker {
        final long number;

        Marker(long number) {
            this.number = number;
        }
    }

    static final List<Marker> markers = new ArrayList<>();
    static final CountDownLatch never = new CountDownLatch(1);
    static final CountDownLatch waiting = new CountDownLatch(3);

    static void waitForever() {
        waiting.countDown();
        try {
            never.await();
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    static void heldInAlpha() {
        waitForever();
    }

    static void heldInBeta() {
        waitForever();
    }

    static void heldInGamma() {
        waitForever();
    }

    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < 12345; i++) {
            markers.add(new Marker(i));
        }
        new Thread(Held::heldInAlpha, "alpha").start();
        new Thread(Held::heldInBeta, "beta").start();
        new Thread(Held::heldInGamma, "gamma").start();
        waiting.await();
        try (OutputStream ready = new FileOutputStream("/proc/self/fd/" + System.getenv("TARGET_READY"))) {
            ready.write("ready\n".getBytes());
        }
        never.await();
    }
}
