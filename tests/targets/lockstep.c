/* lockstep BYTES: threads that keep what must agree far apart in memory, and write it at full speed.
 *
 * Under one mutex: n = ++first[1] on the first page; word 0 of page n % pages = n; last[1] = n on the last page.
 * One more thread counts in r12 (Arm: x12) and writes it, in this order, to a shared mapping, a private one and another shared one.
 */
#include "target.h"

#define WORDS (PAGE / 8)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t *area, *last, pages;
static uint64_t *ahead, *middle, *behind;

static void *write_under_lock(void *unused)
{
    for (;;) {
        pthread_mutex_lock(&mutex);
        uint64_t n = __atomic_add_fetch(&area[1], 1, __ATOMIC_RELAXED);
        __atomic_store_n(&area[n % pages * WORDS], n, __ATOMIC_RELAXED);
        __atomic_store_n(&last[1], n, __ATOMIC_RELAXED);
        __atomic_store_n(&state->counter, n, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}

static void *count_in_register(void *unused)
{
    fact("counting=%d\n", gettid());
    target_ready();
#ifdef __aarch64__
    __asm__ volatile("mov x12, 0\n" /* stores with release: no later one is seen before an earlier one */
                     "1: add x12, x12, 1\n"
                     "stlr x12, [%0]\n"
                     "stlr x12, [%1]\n"
                     "stlr x12, [%2]\n"
                     "b 1b\n"
                     :
                     : "r"(ahead), "r"(middle), "r"(behind)
                     : "x12", "memory");
#else
    __asm__ volatile("xorl %%r12d, %%r12d\n"
                     "1: incq %%r12\n"
                     "movq %%r12, (%0)\n"
                     "movq %%r12, (%1)\n"
                     "movq %%r12, (%2)\n"
                     "jmp 1b\n"
                     :
                     : "r"(ahead), "r"(middle), "r"(behind)
                     : "r12", "memory");
#endif
    return unused;
}

int main(int count, char **arguments)
{
    size_t bytes = count > 1 ? strtoul(arguments[1], NULL, 0) : 32UL << 20;
    target_begin();
    area = map_anonymous(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    memset(area, 0, bytes);
    pages = bytes / PAGE;
    for (uint64_t page = 0; page < pages; page++)
        area[page * WORDS + 2] = pattern_word(page); /* no page is without content */
    last = area + (pages - 1) * WORDS;
    ahead = map_anonymous(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    middle = map_anonymous(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    behind = map_anonymous(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    *ahead = *middle = *behind = 0;
    fact("area=%p\nmutex=%p\nahead=%p\nmiddle=%p\nbehind=%p\n", (void *)area, (void *)&mutex, (void *)ahead,
         (void *)middle, (void *)behind);
    pthread_t thread;
    for (int i = 0; i < 3; i++)
        if (pthread_create(&thread, NULL, i ? write_under_lock : count_in_register, NULL))
            die("pthread_create");
    for (;;)
        pause();
}
