/* What libraries in C leave in a process: each function leaves one thing. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void *wait_for_ever(void *nothing) {
    for (;;) usleep(10000);
    return nothing;
}

static void *compute_for_ever(void *nothing) {
    static volatile unsigned long turns;
    for (;;) turns++;
    return nothing;
}

static void start(void *(*body)(void *), const char *name) {
    pthread_t thread;
    pthread_create(&thread, NULL, body, NULL);
    if (name) pthread_setname_np(thread, name);
    pthread_detach(thread);
}

/* A helper thread that nobody joins. */
void leave_thread(void) { start(wait_for_ever, NULL); }

/* The same under a name that says nothing of the plugin. */
void leave_named_thread(void) { start(wait_for_ever, "helper"); }

/* One that never waits. */
void leave_busy_thread(void) { start(compute_for_ever, "helper"); }

static volatile int heard;

static void hear(int signal) { heard = signal; }

/* A handler that swallows the signal. */
void leave_handler(int signal) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = hear;
    sigaction(signal, &action, NULL);
}

/* A process-wide interval timer whose signal nobody handles. */
void leave_interval_timer(void) {
    struct itimerval every = {{0, 10000}, {0, 10000}};
    setitimer(ITIMER_REAL, &every, NULL);
}

static void on_time(union sigval nothing) { (void)nothing; }

/* A timer that starts a thread each time. */
void leave_timer(void) {
    struct sigevent event;
    struct itimerspec every = {{0, 10000000}, {0, 10000000}};
    timer_t timer;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = on_time;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) timer_settime(timer, 0, &every, NULL);
}

static volatile int hangs, exits;

static void at_exit(void) { exits++; }

/* A function for the library's end. */
void leave_exit_function(void) { atexit(at_exit); }

/* A destructor of the library that does not return. */
void leave_hanging_destructor(void) { hangs = 1; }

__attribute__((destructor)) static void end(void) {
    while (hangs) pause();
}

/* Memory that only a static of the library points to. */
void leave_memory(size_t bytes) {
    static char *volatile kept;
    kept = malloc(bytes);
    if (kept) memset(kept, 1, bytes);
}

/* A pipe that nobody closes. */
void leave_file(void) {
    int ends[2];
    if (pipe(ends) != 0) return;
    close(ends[1]);
}

/* What code does that wants to find its own files. */
void leave_folder(void) {
    /* If it fails, the test does. */
    if (chdir("/") != 0) return;
}

/* What code does that wants to be a daemon. The next file that is opened gets the number 1. */
void leave_closed_output(void) {
    close(1);
    close(2);
}
