/* A program with embedded Lua engines, for tests that a Lua program cannot run on itself.
 *
 *   host run FILE [ARGUMENT...]   runs a program that also has the functions of `host` (see below)
 *   host states COUNT FILE        the same in COUNT states, one after the other, each closed
 *   host threads COUNT FILE       COUNT states, one after the other, in each of two threads
 *   host memory FILE              calls the function that the program returns, with an allocator
 *                                 that refuses at every point in turn
 *   host refuse FILE STRIDE       calls the two functions that the program returns, the second after
 *                                 the first; at every point in turn, in a process each, an allocator
 *                                 refuses once, or from there on. STRIDE leaves points out, above 1
 *
 * Exit status: 0 on success; otherwise standard error has the reason.
 */
#include <dirent.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* The number of files in a folder of /proc. */
static int count(const char *folder) {
    DIR *opened = opendir(folder);
    int files = 0;
    while (opened && readdir(opened)) files++;
    if (opened) closedir(opened);
    return files;
}

static long resident_kb(void) {
    long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2) abort();
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* The resources of a process that must not grow. */
struct holdings {
    int descriptors, threads;
    long resident_kb;
};

static struct holdings holdings(void) {
    struct holdings held = {count("/proc/self/fd"), count("/proc/self/task"), resident_kb()};
    return held;
}

/* host.fork(): the child's id, or 0 in the child */
static int l_fork(lua_State *L) {
    fflush(NULL);
    lua_pushinteger(L, fork());
    return 1;
}

/* host.wait(id): the exit status of a child, or minus the signal that ended it */
static int l_wait(lua_State *L) {
    int status = 0;
    if (waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0) < 0) return luaL_error(L, "no such child");
    lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    return 1;
}

/* host.exit(status): ends the process at once, with no state closed */
static int l_exit(lua_State *L) {
    _exit((int)luaL_checkinteger(L, 1));
}

/* host.held(): descriptors, threads, resident kilobytes */
static int l_held(lua_State *L) {
    struct holdings held = holdings();
    lua_pushinteger(L, held.descriptors);
    lua_pushinteger(L, held.threads);
    lua_pushinteger(L, held.resident_kb);
    return 3;
}

static void open_host(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"fork", l_fork}, {"wait", l_wait}, {"exit", l_exit}, {"held", l_held}, {NULL, NULL}};
    luaL_openlibs(L);
    lua_newtable(L);
    for (const luaL_Reg *function = functions; function->name; function++) {
        lua_pushcfunction(L, function->func);
        lua_setfield(L, -2, function->name);
    }
    lua_setglobal(L, "host");
}

/* The value on top of the stack as text; may push another value. */
static const char *text(lua_State *L) {
    if (luaL_callmeta(L, -1, "__tostring")) return lua_tostring(L, -1);
    return lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1);
}

/* Runs a file in a new state and closes it; reports a failure. */
static int run(const char *file, char **arguments) {
    lua_State *L = luaL_newstate();
    int status;
    double begun;
    if (!L) return fprintf(stderr, "no state\n"), 1;
    open_host(L);
    status = luaL_loadfile(L, file);
    if (!status) {
        int given = 0;
        for (; arguments && arguments[given]; given++) lua_pushstring(L, arguments[given]);
        status = lua_pcall(L, given, 0, 0);
    }
    if (status) fprintf(stderr, "%s\n", text(L));
    begun = now();
    lua_close(L);
    /* Far more than it waits for the last work of its objects, on a busy machine. */
    if (now() - begun > 10) {
        fprintf(stderr, "closing the state took %.3f s\n", now() - begun);
        status = 1;
    }
    return status != 0;
}

static int grew(struct holdings before, long slack_kb) {
    struct holdings after = holdings();
    /* Threads end and connections close in the background. */
    for (double begun = now(); (after.threads > before.threads || after.descriptors > before.descriptors) &&
                               now() - begun < 10;
         after = holdings())
        usleep(1000);
    fprintf(stderr, "descriptors %d -> %d, threads %d -> %d, resident %ld -> %ld kB\n", before.descriptors,
            after.descriptors, before.threads, after.threads, before.resident_kb, after.resident_kb);
    return after.descriptors > before.descriptors || after.threads > before.threads ||
           after.resident_kb > before.resident_kb + slack_kb;
}

/* Whether the module is still mapped after the states that loaded it were closed. */
static int is_mapped(const char *module) {
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) found |= strstr(line, module) != NULL;
    if (maps) fclose(maps);
    return found;
}

static int states(int times, const char *file) {
    struct holdings before = {0, 0, 0};
    for (int turn = 0; turn < times; turn++) {
        /* The first states warm up the allocators. */
        if (turn == times / 4) before = holdings();
        if (run(file, NULL)) return fprintf(stderr, "state %d failed\n", turn), 1;
    }
    if (!is_mapped("/consul_ffi.so")) return fprintf(stderr, "the module was unmapped\n"), 1;
    return grew(before, 4096);
}

struct job {
    int times, failed;
    const char *file;
};

static void *work(void *argument) {
    struct job *job = argument;
    for (int turn = 0; turn < job->times && !job->failed; turn++) job->failed = run(job->file, NULL);
    return NULL;
}

static int threads(int times, const char *file) {
    struct job jobs[2] = {{times, 0, file}, {times, 0, file}};
    pthread_t started[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&started[i], NULL, work, &jobs[i])) return 1;
    for (int i = 0; i < 2; i++) pthread_join(started[i], NULL);
    return jobs[0].failed || jobs[1].failed;
}

/* An allocator that counts, and fails from a given allocation on, or only that one. */
struct budget {
    long made, refuse_from;
    int once;
    size_t in_use;
};

static void *allocate(void *argument, void *block, size_t old_size, size_t new_size) {
    struct budget *budget = argument;
    size_t had = block ? old_size : 0;
    void *got;
    if (new_size == 0) {
        budget->in_use -= had;
        return free(block), NULL;
    }
    if (new_size > had && ++budget->made >= budget->refuse_from && budget->refuse_from &&
        (!budget->once || budget->made == budget->refuse_from))
        return NULL;
    got = realloc(block, new_size);
    if (got) budget->in_use += new_size - had;
    return got;
}

/* Calls the function at index 1; the failing allocation is counted from here, 0: none fails. */
static int call(lua_State *L, struct budget *budget, long refuse_from) {
    int status;
    lua_pushvalue(L, 1);
    budget->made = 0;
    budget->refuse_from = refuse_from;
    status = lua_pcall(L, 0, 0, 0);
    budget->refuse_from = 0;
    return status;
}

static size_t collected(lua_State *L, struct budget *budget) {
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCCOLLECT, 0);
    return budget->in_use;
}

static int memory(const char *file) {
    struct budget budget = {0, 0, 0, 0};
    struct holdings before;
    size_t in_use;
    long points, refused = 0, step;
    lua_State *L = lua_newstate(allocate, &budget);
    if (!L) return fprintf(stderr, "no state\n"), 1;
    open_host(L);
    if (luaL_loadfile(L, file) || lua_pcall(L, 0, 1, 0) || call(L, &budget, 0) || call(L, &budget, 0))
        return fprintf(stderr, "%s\n", text(L)), 1;
    points = budget.made;
    /* Every point at the beginning, during the calls themselves, then every seventh. */
    before = holdings();
    in_use = collected(L, &budget);
    for (long point = 1; point <= points; point += step) {
        step = point < 500 ? 1 : 7;
        if (call(L, &budget, point)) {
            if (lua_type(L, -1) != LUA_TSTRING || !strstr(text(L), "not enough memory"))
                return fprintf(stderr, "refused at %ld of %ld: %s\n", point, points, text(L)), 1;
            lua_pop(L, 1);
            refused++;
        }
        if (call(L, &budget, 0))
            return fprintf(stderr, "unusable after %ld of %ld: %s\n", point, points, text(L)), 1;
        /* Less than LuaJIT's table of strings grows by at once. */
        if (collected(L, &budget) > in_use + 16384)
            return fprintf(stderr, "%zu bytes became %zu at %ld\n", in_use, budget.in_use, point), 1;
    }
    fprintf(stderr, "%ld of %ld points refused\n", refused, points);
    lua_close(L);
    if (budget.in_use) return fprintf(stderr, "%zu bytes are left\n", budget.in_use), 1;
    return refused == 0 || grew(before, 4096);
}

/* How a process ended in which the allocator refused. */
enum { REFUSED = 10, SUCCEEDED, PAST_THE_END };

/* Up to this point none is left out: the module makes its reserve and starts mlua. */
enum { DENSE = 450 };

/* The bytes by which LuaJIT itself miscounts when a closure in a loop finds no memory. */
enum { MISCOUNTED = 80 };

/* Calls the function at an index, which an allocator refuses memory at a point, and ends the process. */
static void call_refused(lua_State *L, int function, struct budget *budget, long point, int once) {
    int status, reached;
    lua_pushvalue(L, function);
    budget->made = 0;
    budget->once = once;
    budget->refuse_from = point;
    status = lua_pcall(L, 0, 0, 0);
    reached = budget->made >= point;
    budget->refuse_from = 0;
    if (status && (lua_type(L, -1) != LUA_TSTRING || !strstr(text(L), "not enough memory"))) {
        fprintf(stderr, "refused %s %ld: a %s: %s\n", once ? "at" : "from", point, luaL_typename(L, -1), text(L));
        _exit(1);
    }
    lua_settop(L, 2);
    /* With memory again everything works. */
    for (int index = function; index <= 2; index++) {
        lua_pushvalue(L, index);
        if (lua_pcall(L, 0, 0, 0)) {
            fprintf(stderr, "unusable after a refusal %s %ld: %s\n", once ? "at" : "from", point, text(L));
            _exit(1);
        }
    }
    lua_close(L);
    if (budget->in_use > MISCOUNTED) {
        fprintf(stderr, "%zu bytes are left after a refusal %s %ld\n", budget->in_use, once ? "at" : "from", point);
        _exit(1);
    }
    _exit(!reached ? PAST_THE_END : status ? REFUSED : SUCCEEDED);
}

/* Has a function refused at every point, in a process each. */
static int refuse_everywhere(lua_State *L, int function, struct budget *budget, int once, int stride) {
    long refused = 0, succeeded = 0, wrong = 0, point = 1;
    for (;; point += point < DENSE ? 1 : stride) {
        int status = 0, code;
        pid_t child;
        fflush(NULL);
        child = fork();
        if (!child) call_refused(L, function, budget, point, once);
        if (child < 0 || waitpid(child, &status, 0) < 0) return perror("fork"), 1;
        code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        if (code == PAST_THE_END) break;
        refused += code == REFUSED;
        succeeded += code == SUCCEEDED;
        if (code != REFUSED && code != SUCCEEDED) {
            fprintf(stderr, "refused %s %ld: signal %d\n", once ? "at" : "from", point,
                    WIFSIGNALED(status) ? WTERMSIG(status) : 0);
            /* A function that always fails has no end. */
            if (++wrong == 20) break;
        }
    }
    fprintf(stderr, "function %d, %s: %ld points, %ld refused, %ld succeeded, %ld wrong\n", function,
            once ? "once" : "from there on", point - 1, refused, succeeded, wrong);
    /* Lua 5.4 collects and asks again. */
    return wrong || (!once && !refused);
}

static int refuse(const char *file, int stride) {
    struct budget budget = {0, 0, 0, 0};
    int failed = 0;
    lua_State *L = lua_newstate(allocate, &budget);
    if (!L) return fprintf(stderr, "no state\n"), 1;
    open_host(L);
    if (luaL_loadfile(L, file) || lua_pcall(L, 0, 2, 0)) return fprintf(stderr, "%s\n", text(L)), 1;
    for (int function = 1; function <= 2; function++) {
        for (int once = 0; once <= 1; once++) failed |= refuse_everywhere(L, function, &budget, once, stride);
        lua_pushvalue(L, function);
        if (function == 1 && lua_pcall(L, 0, 0, 0)) return fprintf(stderr, "%s\n", text(L)), 1;
    }
    return failed;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (argc >= 3 && !strcmp(what, "run")) return run(argv[2], argv + 3);
    if (argc == 4 && !strcmp(what, "states")) return states(atoi(argv[2]), argv[3]);
    if (argc == 4 && !strcmp(what, "threads")) return threads(atoi(argv[2]), argv[3]);
    if (argc == 3 && !strcmp(what, "memory")) return memory(argv[2]);
    if (argc == 4 && !strcmp(what, "refuse")) return refuse(argv[2], atoi(argv[3]));
    fprintf(stderr, "usage: host run FILE [ARGUMENT...] | states COUNT FILE | threads COUNT FILE | memory FILE | "
                    "refuse FILE STRIDE\n");
    return 2;
}
