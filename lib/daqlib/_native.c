/* The two things that Python does slowly or not at all: the sum of an HDU, and a rename that
 * replaces nothing. Optional: daqlib.checksum and daqlib.fsops have ways without it.
 *
 * Limited API: one binary serves CPython 3.11 and all later ones.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULUS UINT64_C(0xFFFFFFFF)
#define EVERY_OTHER UINT64_C(0x00FF00FF00FF00FF)

/* 256 bytes of 255 fit the 16 bits of a lane: no carry reaches the next one. */
#define WORDS 256

/* Below this a sum takes less time than another thread needs to wake up. */
#define WORTH_LETTING_GO (64 * 1024)

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

/* A second copy for processors that add 32 bytes at a time is chosen when the module is loaded;
 * it is 1.2 times faster on a file in the page cache. Elsewhere the compiler's default serves. */
#ifdef __has_attribute
#if __has_attribute(target_clones) && defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_ALL_PROCESSORS __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef FOR_ALL_PROCESSORS
#define FOR_ALL_PROCESSORS
#endif

/* 2^32 is 1 modulo 2^32 - 1: the upper half counts as much as the lower one. */
static inline uint64_t
halves(uint64_t value)
{
    return (value & MODULUS) + (value >> 32);
}

/* Add the bytes at even and at odd places of 64-bit words to a counter each. Inside a block they
 * are in four lanes of 16 bits, so that one addition does for four bytes. */
FOR_ALL_PROCESSORS
static void
add_words(const unsigned char *bytes, size_t words, uint64_t counters[2])
{
    while (words) {
        size_t block = words < WORDS ? words : WORDS;
        uint64_t low = 0, high = 0;

        for (size_t i = 0; i < block; i++) {
            uint64_t word;
            memcpy(&word, bytes + 8 * i, 8); /* any alignment */
            low += word & EVERY_OTHER;
            high += (word >> 8) & EVERY_OTHER;
        }
        /* no counter can run over: it takes 2^31 blocks of 2 KiB */
        counters[0] += halves(low);
        counters[1] += halves(high);
        bytes += 8 * block;
        words -= block;
    }
}

/* The ones'-complement sum of big-endian 32-bit words, FITS Standard 4.0, 4.4.2.7. */
static uint32_t
sum_words(const unsigned char *bytes, size_t size)
{
    uint64_t counters[2] = {0, 0}, total;
    unsigned char last[8] = {0};

    add_words(bytes, size / 8, counters);
    if (size % 8) { /* what is missing counts as zeros */
        memcpy(last, bytes + size - size % 8, size % 8);
        add_words(last, 1, counters);
    }
    if (!counters[0] && !counters[1])
        return 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    total = counters[0] % MODULUS + ((counters[1] % MODULUS) << 8);
#else
    /* the lowest byte of a word is the first one in memory and weighs 2^24 */
    total = ((counters[0] % MODULUS) << 24) + ((counters[1] % MODULUS) << 16);
#endif
    total %= MODULUS;
    return (uint32_t)(total ? total : MODULUS);
}

PyDoc_STRVAR(ones_sum_doc,
"ones_sum(buffer, /)\n--\n\n"
"Return the ones'-complement sum of big-endian 32-bit words of contiguous bytes.");

static PyObject *
ones_sum(PyObject *module, PyObject *object)
{
    Py_buffer view;
    uint32_t total;

    (void)module;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (view.len < WORTH_LETTING_GO) {
        total = sum_words(view.buf, (size_t)view.len);
    } else {
        Py_BEGIN_ALLOW_THREADS
        total = sum_words(view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(total);
}

static int
call_renameat2(const char *source, const char *target)
{
#ifdef SYS_renameat2 /* older C libraries lack the function, not the number */
    return (int)syscall(SYS_renameat2, AT_FDCWD, source, AT_FDCWD, target, RENAME_NOREPLACE);
#else
    (void)source;
    (void)target;
    errno = ENOSYS;
    return -1;
#endif
}

PyDoc_STRVAR(rename_noreplace_doc,
"rename_noreplace(source, target, /)\n--\n\n"
"Rename a file unless the target exists, in one system call.\n\n"
"Raises OSError; ENOSYS or EINVAL when the kernel or the file system cannot.");

static PyObject *
rename_noreplace(PyObject *module, PyObject *args)
{
    PyObject *names[2], *paths[2] = {NULL, NULL}, *done = NULL;
    int failed, code;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO:rename_noreplace", &names[0], &names[1]))
        return NULL;
    if (!PyUnicode_FSConverter(names[0], &paths[0]))
        return NULL;
    if (!PyUnicode_FSConverter(names[1], &paths[1])) {
        Py_DECREF(paths[0]);
        return NULL;
    }
    const char *source = PyBytes_AsString(paths[0]), *target = PyBytes_AsString(paths[1]);
    Py_BEGIN_ALLOW_THREADS
    failed = call_renameat2(source, target);
    code = errno;
    Py_END_ALLOW_THREADS
    if (failed) {
        errno = code;
        PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, names[0], names[1]);
    } else {
        Py_INCREF(Py_None);
        done = Py_None;
    }
    Py_DECREF(paths[0]);
    Py_DECREF(paths[1]);
    return done;
}

static PyMethodDef methods[] = {
    {"ones_sum", ones_sum, METH_O, ones_sum_doc},
    {"rename_noreplace", rename_noreplace, METH_VARARGS, rename_noreplace_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "daqlib._native",
    .m_doc = "What is slow or missing in Python; nobody but daqlib.checksum and fsops uses it.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
