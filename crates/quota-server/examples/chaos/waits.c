// Stands beside libfaketime, which does not know the one call by which librdkafka waits until a time of the clock. As in a
// kernel, a clock that is turned back makes such a wait longer, and one that is turned ahead ends it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static const int64_t SECOND = 1000000000;
// How soon it is noticed that the clock was turned.
static const int64_t LOOK = 100000000;

static int64_t nanos(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    typedef int wait_until(cnd_t *, mtx_t *, const struct timespec *);
    static _Atomic(wait_until *) next;
    if (!next) next = (wait_until *)dlsym(RTLD_NEXT, "cnd_timedwait");
    for (;;) {
        struct timespec shown, real;
        clock_gettime(CLOCK_REALTIME, &shown);
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
        int64_t left = nanos(until) - nanos(&shown);
        int64_t look = nanos(&real) + (left < LOOK ? left : LOOK);
        if (look < 0) look = 0;
        struct timespec at = {.tv_sec = look / SECOND, .tv_nsec = look % SECOND};
        int ended = next(condition, mutex, &at);
        if (ended != thrd_timedout || left <= LOOK) return ended;
    }
}
