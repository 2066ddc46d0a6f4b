/* The loops of stream.py in C, for kernels/bench.py. The barrier keeps the compiler from doing one of `times` repetitions only. */
#include <stddef.h>

#define LOOP(name, value)                                                                            \
    void name(const double *restrict a, const double *restrict b, double s, double *restrict out,    \
              size_t size, size_t times) {                                                           \
        for (size_t k = 0; k < times; k++) {                                                         \
            for (size_t i = 0; i < size; i++) out[i] = value;                                        \
            __asm__ volatile("" ::: "memory");                                                       \
        }                                                                                            \
    }

LOOP(copy, a[i])
LOOP(scale, s * a[i])
LOOP(add, a[i] + b[i])
LOOP(triad, a[i] + s * b[i])
