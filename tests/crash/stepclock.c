/* A system clock that steps: preloaded into the tools, it shifts the time of day and, so that they
 * agree with it, the times of files. Where and how far is told by a file that the test maps too:
 * the number of steps, and for each the real time since when it holds and the offset from then on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define MOST 15
/* Added to times that a program gives to a file: they stay the same whatever the clock does. */
#define GIVEN (4000000000LL * SECOND)

struct steps {
    int64_t count;
    struct { int64_t since, offset; } step[MOST];
};

static const volatile struct steps *steps;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_STEPS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof *steps, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED)
        steps = found;
}

/* What the clock that steps says at a real time; of a time that was given, what was given. */
static int64_t seen(int64_t real)
{
    int64_t offset = 0;
    if (real >= GIVEN)
        return real - GIVEN;
    for (int64_t i = 0; steps && i < steps->count; i++)
        if (real >= steps->step[i].since)
            offset = steps->step[i].offset;
    return real + offset;
}

static int64_t ns_of(const struct timespec *time)
{
    return time->tv_sec * SECOND + time->tv_nsec;
}

static void set(struct timespec *time, int64_t ns)
{
    time->tv_sec = ns / SECOND;
    time->tv_nsec = ns % SECOND;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t id, struct timespec *time)
{
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int code = real(id, time);
    if (code == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        set(time, seen(ns_of(time)));
    return code;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

#define SHIFTED(type, name, parameters, arguments, ...) \
    int name parameters \
    { \
        REAL(int, name, __VA_ARGS__); \
        int code = real arguments; \
        if (code == 0) { \
            set(&status->st_atim, seen(ns_of(&status->st_atim))); \
            set(&status->st_mtim, seen(ns_of(&status->st_mtim))); \
            set(&status->st_ctim, seen(ns_of(&status->st_ctim))); \
        } \
        return code; \
    }
#define BY_PATH(type, name) \
    SHIFTED(type, name, (const char *restrict path, struct type *restrict status), \
            (path, status), const char *, struct type *)
#define BY_FD(type, name) \
    SHIFTED(type, name, (int fd, struct type *status), (fd, status), int, struct type *)
#define BY_BOTH(type, name) \
    SHIFTED(type, name, (int fd, const char *restrict path, struct type *restrict status, \
            int flags), (fd, path, status, flags), int, const char *, struct type *, int)

BY_PATH(stat, stat)
BY_PATH(stat64, stat64)
BY_PATH(stat, lstat)
BY_PATH(stat64, lstat64)
BY_FD(stat, fstat)
BY_FD(stat64, fstat64)
BY_BOTH(stat, fstatat)
BY_BOTH(stat64, fstatat64)

/* Times to be given to a file, as the kernel is to store them. */
static const struct timespec *stored(const struct timespec given[2], struct timespec made[2])
{
    if (!given)
        return NULL; /* now, by the real clock */
    for (int i = 0; i < 2; i++) {
        made[i] = given[i];
        if (given[i].tv_nsec != UTIME_NOW && given[i].tv_nsec != UTIME_OMIT)
            set(&made[i], ns_of(&given[i]) + GIVEN);
    }
    return made;
}

int utimensat(int fd, const char *path, const struct timespec given[2], int flags)
{
    struct timespec made[2];
    REAL(int, utimensat, int, const char *, const struct timespec *, int);
    return real(fd, path, stored(given, made), flags);
}

int futimens(int fd, const struct timespec given[2])
{
    struct timespec made[2];
    REAL(int, futimens, int, const struct timespec *);
    return real(fd, stored(given, made));
}
