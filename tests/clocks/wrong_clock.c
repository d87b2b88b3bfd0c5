// Loaded before the C library (LD_PRELOAD), it sets the wall clock of one process ahead, by as many milliseconds as the file
// says that WRONG_CLOCK names.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long ahead_ms(void) {
    const char *name = getenv("WRONG_CLOCK");
    FILE *file = name ? fopen(name, "r") : NULL;
    long long ms = 0;
    if (file) {
        if (fscanf(file, "%lld", &ms) != 1) ms = 0;
        fclose(file);
    }
    return ms;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME) {
        long long ms = ahead_ms();
        time->tv_sec += ms / 1000;
        time->tv_nsec += ms % 1000 * 1000000;
        if (time->tv_nsec >= 1000000000) {
            time->tv_sec++;
            time->tv_nsec -= 1000000000;
        }
    }
    return result;
}
