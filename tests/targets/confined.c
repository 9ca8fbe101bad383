/* confined KIND: a thread under seccomp that counts.
 *
 * allow    a filter that allows everything
 * errno N, trap N, kill N, thread N    a filter that answers system call N so, and allows the rest
 * strict   strict mode: read, write, exit and sigreturn alone
 */
#include "target.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <errno.h>
#include <stddef.h>

#define AREA (1UL << 20)
#ifdef __x86_64__
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define OWN_ARCH AUDIT_ARCH_AARCH64
#else
#define OWN_ARCH AUDIT_ARCH_I386
#endif

static uint32_t action_of(const char *kind)
{
    if (!strcmp(kind, "errno"))
        return SECCOMP_RET_ERRNO | EPERM;
    if (!strcmp(kind, "trap"))
        return SECCOMP_RET_TRAP;
    if (!strcmp(kind, "kill"))
        return SECCOMP_RET_KILL_PROCESS;
    if (!strcmp(kind, "thread"))
        return SECCOMP_RET_KILL_THREAD;
    return SECCOMP_RET_ALLOW;
}

static void confine(uint32_t action, uint32_t number)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        die("seccomp");
}

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "allow";
    target_begin();
    char *area = map_anonymous(AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, AREA);
    fact("area=%p\narea_bytes=%lu\n", (void *)area, AREA);
    int strict = !strcmp(kind, "strict");
    if (!strict)
        confine(action_of(kind), count > 2 ? (uint32_t)atoi(arguments[2]) : ~0U);
    fact("ready\n"); /* unshare keeps the descriptor open */
    target_ready();
    if (strict && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
        die("strict");
    for (;;) /* no system call: strict mode has none to sleep with */
        state->counter++;
}
