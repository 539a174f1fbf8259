/* A file server that is away, a disk that is broken, or one that is slow, for one file: preloaded
 * into the tools, it fails what they do with the file that BROKEN_FILE names: BROKEN_AT open or
 * read, with the error number BROKEN_ERRNO. BROKEN_AT hold: the second read waits until the file
 * BROKEN_GATE is removed, and makes BROKEN_GATE.held before.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int breaks(const char *at, int fd)
{
    const char *path = getenv("BROKEN_FILE"), *where = getenv("BROKEN_AT");
    char name[64], real[4096];
    ssize_t length;
    if (!path || !where || strcmp(where, at))
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    length = readlink(name, real, sizeof real - 1);
    if (length < 0)
        return 0;
    real[length] = 0;
    return strcmp(real, path) == 0;
}

static int fails(void)
{
    errno = atoi(getenv("BROKEN_ERRNO"));
    return -1;
}

static void hold(void)
{
    static int reads;
    const char *gate = getenv("BROKEN_GATE");
    char held[4096];
    if (++reads != 2 || !gate)
        return;
    snprintf(held, sizeof held, "%s.held", gate);
    creat(held, 0600);
    while (access(gate, F_OK) == 0)
        usleep(10000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENS(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        int fd = REAL(name)(path, flags, mode); \
        if (fd >= 0 && breaks("open", fd)) { \
            close(fd); \
            return fails(); \
        } \
        return fd; \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        int fd = REAL(name)(folder, path, flags, mode); \
        if (fd >= 0 && breaks("open", fd)) { \
            close(fd); \
            return fails(); \
        } \
        return fd; \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

#define READS(type, name, parameters, arguments) \
    type name parameters \
    { \
        if (breaks("hold", fd)) \
            hold(); \
        return breaks("read", fd) ? fails() : REAL(name) arguments; \
    }
READS(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
READS(ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
READS(ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
READS(ssize_t, readv, (int fd, const struct iovec *to, int count), (fd, to, count))
READS(ssize_t, preadv, (int fd, const struct iovec *to, int count, off_t at), (fd, to, count, at))
READS(ssize_t, preadv64, (int fd, const struct iovec *to, int count, off64_t at),
      (fd, to, count, at))
READS(ssize_t, preadv2, (int fd, const struct iovec *to, int count, off_t at, int flags),
      (fd, to, count, at, flags))
READS(ssize_t, preadv64v2, (int fd, const struct iovec *to, int count, off64_t at, int flags),
      (fd, to, count, at, flags))

/* No clone either: it would not read. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int source = (int)(intptr_t)argument;
    if (request == 0x40049409 && (breaks("read", source) || breaks("hold", source))) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}
