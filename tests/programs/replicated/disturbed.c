/*
 * Loaded into a node of histories.lua (LD_PRELOAD): its clock is off, its disk is full, or loses power. The file
 * DISTURBED has what is to happen, four numbers of 64 bits that both sides map or write:
 *
 *   clock   microseconds that are added to the time of day
 *   full    not 0: writes to files named *.sqlite* fail with ENOSPC; 2: of the first one, half is written before
 *   end     what was written to the write-ahead log since its head was written
 *   synced  how much of that a completed fsync covers: what is left of it after a power cut
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct shared {
    volatile int64_t clock, full, end, synced;
} none, *shared = &none;

static int (*next_gettime)(clockid_t, struct timespec *);
static ssize_t (*next_pwrite)(int, const void *, size_t, off64_t);
static int (*next_fsync)(int), (*next_fdatasync)(int);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DISTURBED");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    next_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    next_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    next_fsync = dlsym(RTLD_NEXT, "fsync");
    next_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) shared = mapped;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int status;
    if (!next_gettime) next_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    status = next_gettime(clock, time);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t us = (int64_t)time->tv_sec * 1000000 + time->tv_nsec / 1000 + shared->clock;
        time->tv_nsec = us % 1000000 * 1000 + time->tv_nsec % 1000;
        time->tv_sec = us / 1000000;
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

/* Whether a file is one of the database: 2 for its write-ahead log. */
static int kind(int file) {
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *found = strstr(path, ".sqlite");
    return !found ? 0 : strcmp(found, ".sqlite-wal") == 0 ? 2 : 1;
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    int which = kind(file);
    ssize_t written;
    if (which && shared->full) {
        if (shared->full == 1 || size < 2) {
            errno = ENOSPC;
            return -1;
        }
        shared->full = 1;
        size /= 2;
    }
    written = next_pwrite(file, bytes, size, at);
    if (which == 2 && written > 0) {
        if (at == 0) shared->end = shared->synced = 0;
        if (at + written > shared->end) shared->end = at + written;
    }
    return written;
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    return pwrite64(file, bytes, size, at);
}

static int synced(int (*next)(int), int file) {
    int64_t end = shared->end;
    int status = next(file);
    if (status == 0 && kind(file) == 2) shared->synced = end;
    return status;
}

int fsync(int file) {
    return synced(next_fsync, file);
}

int fdatasync(int file) {
    return synced(next_fdatasync, file);
}
