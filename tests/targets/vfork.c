/* vfork: the second thread waits in the kernel for its child, which shares all memory with it, until standard input ends.
 *
 * The child exits with 7 then; the thread reaps it, and ends.
 */
#include "target.h"

#include <sys/wait.h>

static void *parent(void *unused)
{
    prctl(PR_SET_NAME, "in vfork");
    pid_t child = vfork();
    if (child == 0) {
        char byte;
        while (read(0, &byte, 1) > 0)
            ;
        _exit(7);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
        __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
        perror("vfork");
    }
    return unused;
}

int main(void)
{
    pthread_t thread;
    target_begin();
    char *area = map_anonymous(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 16 * PAGE);
    fact("area=%p\nready\n", (void *)area); /* the child keeps the descriptor open */
    if (pthread_create(&thread, NULL, parent, NULL))
        die("pthread_create");
    beat_forever();
}
