/* Who may trace in a container: stops each process the moment it appears, and searches its memory.
 *
 * reader FIRST SECOND [keep|hold]: the text searched for is FIRST and SECOND joined, so that our own arguments do not hold
 * it. A line a process: number, capabilities, seccomp mode, open descriptors, whether the text was found, what it
 * executes, its command line. It lets each go as soon as it was searched; with "keep" it lets it run but stays its
 * tracer, so that its parent cannot collect it; with "hold" it is never let go. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[1 << 20];

static long read_whole(int pid, const char *name)
{
    char path[64];
    long total = 0, count;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    while ((count = read(fd, buffer + total, sizeof buffer - 1 - total)) > 0)
        total += count;
    close(fd);
    buffer[total] = 0;
    return total;
}

/* Whether the text stands in a readable piece of the process's memory; pages overlap by the text's length. */
static int search(int pid, const char *text)
{
    static char maps[1 << 20];
    char path[64];
    int found = 0;
    size_t length = strlen(text);
    if (read_whole(pid, "maps") < 0)
        return -errno;
    strcpy(maps, buffer);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -errno;
    for (char *line = strtok(maps, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long first, last;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &first, &last, rights) != 3 || rights[0] != 'r' || strstr(line, "[v"))
            continue;
        while (first < last) {
            size_t want = last - first < sizeof buffer ? last - first : sizeof buffer;
            long count = pread(fd, buffer, want, (off_t)first);
            if (count <= 0)
                break;
            if (memmem(buffer, count, text, length))
                found = 1;
            if (first + count >= last || (size_t)count <= length)
                break;
            first += count - length;
        }
    }
    close(fd);
    return found;
}

static void report(int pid, const char *text)
{
    char capabilities[20] = "?", exe[256] = "?", path[64], *at;
    int seccomp = -1, open = 0;
    if (read_whole(pid, "status") > 0) {
        if ((at = strstr(buffer, "CapPrm:")))
            sscanf(at, "CapPrm: %16s", capabilities);
        if ((at = strstr(buffer, "Seccomp:")))
            sscanf(at, "Seccomp: %d", &seccomp);
    }
    for (int fd = 0; fd < 100; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        open += !faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW);
    }
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    long size = readlink(path, exe, sizeof exe - 1);
    exe[size < 0 ? 0 : size] = 0;
    int found = search(pid, text);
    long count = read_whole(pid, "cmdline");
    for (long i = 0; i + 1 < count; i++)
        if (!buffer[i])
            buffer[i] = ' ';
    printf("%d %s %d %d %s %s %.200s\n", pid, capabilities, seccomp, open,
           found > 0 ? "found" : found ? "refused" : "clean", exe, buffer);
    fflush(stdout);
}

int main(int count, char **words)
{
    char text[256];
    int next = getpid() + 1;
    snprintf(text, sizeof text, "%s%s", words[1], words[2]);
    puts("ready");
    fflush(stdout);
    for (int ahead = 0;; ahead = (ahead + 1) % 8) { /* numbers rise; one may have come and gone unseen */
        if (ptrace(PTRACE_SEIZE, next + ahead, 0, 0) < 0) {
            if (errno != ESRCH) {
                printf("%d - - - refused - %s\n", next + ahead, strerror(errno));
                fflush(stdout);
                next += ahead + 1;
                ahead = -1;
            }
            continue;
        }
        next += ahead;
        ahead = -1;
        ptrace(PTRACE_INTERRUPT, next, 0, 0);
        int status;
        if (waitpid(next, &status, __WALL) == next && WIFSTOPPED(status)) {
            report(next, text);
            if (count < 4)
                ptrace(PTRACE_DETACH, next, 0, 0);
            else if (!strcmp(words[3], "keep"))
                ptrace(PTRACE_CONT, next, 0, 0);
        }
        next++;
    }
}
