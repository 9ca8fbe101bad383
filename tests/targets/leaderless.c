/* The first thread has ended, two others live on. */
#include "target.h"

static void *beat(void *unused)
{
    if (unused)
        while (1)
            pause();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    for (char leader = 0; leader != 'Z';) { /* ready once the leader is a zombie */
        FILE *file = fopen(path, "re");
        if (!file || fscanf(file, "%*d %*s %c", &leader) != 1)
            die(path);
        fclose(file);
    }
    target_ready();
    beat_forever();
    return NULL;
}

int main(void)
{
    pthread_t thread;
    target_begin();
    char *area = map_anonymous(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, 4 * PAGE);
    fact("area=%p\n", (void *)area);
    if (pthread_create(&thread, NULL, beat, (void *)1) || pthread_create(&thread, NULL, beat, NULL))
        die("pthread_create");
    pthread_exit(NULL);
}
