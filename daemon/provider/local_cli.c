/* local_cli.c: `dumontd local-host VERB ...`: the local cloud's command line.
 *
 * Owns nothing. Every verb but exec is one question to the cloud's socket; exec enters the host's
 * namespaces from here, so that the command has this terminal, and gives back its exit status.
 * Failure modes: the cloud's sentence and exit code 1; 2 for usage; exec: 125 when the host cannot
 * be entered, 126/127 as the shell does. Thread: main.
 */
#include "daemon/provider/local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/common/jline.h"
#include "fs/base/io.h"

#define ANSWER_MS  70000 /* an orderly stop drains */
#define INJECT_MAX (1u << 20)

static int usage(void)
{
    fprintf(stderr,
            "usage: dumontd local-host [--socket PATH] create NAME [--address A] [--label L] "
            "[--cloud]\n"
            "                          [--file SOURCE:PATH_IN_HOST]...\n"
            "       dumontd local-host [--socket PATH] exec NAME COMMAND...\n"
            "       dumontd local-host [--socket PATH] kill|stop|destroy|pause|resume NAME\n"
            "       dumontd local-host [--socket PATH] link NAME up|down\n"
            "       dumontd local-host [--socket PATH] list [--json]\n"
            "The socket is also taken from DUMONT_CLOUD.\n");
    return 2;
}

static json_t *ask(const char *socket, json_t *q)
{
    struct dmt_err err = {0};
    json_t *a = NULL;
    int r = jline_ask(socket, q, ANSWER_MS, &a, &err);
    json_decref(q);
    if (r < 0) {
        fprintf(stderr, "dumontd: %s\n", err.msg);
        return NULL;
    }
    if (!jline_bool(a, "ok", false)) {
        fprintf(stderr, "dumontd: %s\n", jline_str(a, "error", "the cloud refuses"));
        json_decref(a);
        return NULL;
    }
    return a;
}

static int simple(const char *socket, const char *op, const char *name)
{
    json_t *a = ask(socket, json_pack("{s:s s:s}", "op", op, "name", name));
    json_decref(a);
    return a ? 0 : 1;
}

/* SOURCE:PATH -> files[PATH] = content of SOURCE. */
static int add_file(json_t *files, const char *spec)
{
    const char *colon = strrchr(spec, ':');
    if (!colon || colon[1] != '/')
        return -EINVAL;
    char *source = strndup(spec, (size_t)(colon - spec)), *text = NULL;
    size_t n;
    int r = source ? dmt_io_read_file(dmt_io_real(), source, INJECT_MAX, &text, &n) : -ENOMEM;
    if (r < 0)
        fprintf(stderr, "dumontd: cannot read %s: %s\n", source ? source : spec, dmt_strerror(r));
    else
        json_object_set_new(files, colon + 1, json_stringn(text, n));
    free(source);
    free(text);
    return r;
}

static int create(const char *socket, int argc, char **argv)
{
    json_t *files = json_object();
    json_t *q = json_pack("{s:s s:s s:o}", "op", "create", "name", argv[0], "files", files);
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--address") == 0 && more) {
            json_object_set_new(q, "address", json_string(argv[++i]));
        } else if (strcmp(argv[i], "--label") == 0 && more) {
            json_object_set_new(q, "label", json_string(argv[++i]));
        } else if (strcmp(argv[i], "--cloud") == 0) {
            json_object_set_new(q, "cloud", json_true());
        } else if (strcmp(argv[i], "--file") == 0 && more) {
            if (add_file(files, argv[++i]) < 0) {
                json_decref(q);
                return 1;
            }
        } else {
            json_decref(q);
            return usage();
        }
    }
    json_t *a = ask(socket, q);
    if (a)
        printf("%s\n", jline_str(a, "address", ""));
    json_decref(a);
    return a ? 0 : 1;
}

static int list(const char *socket, bool as_json)
{
    json_t *a = ask(socket, json_pack("{s:s}", "op", "list"));
    if (!a)
        return 1;
    json_t *hosts = json_object_get(a, "hosts"), *h;
    size_t i;
    if (as_json) {
        json_dumpf(hosts, stdout, JSON_INDENT(1));
        putchar('\n');
    } else {
        json_array_foreach(hosts, i, h)
            printf("%-16s %-8s %-15s link %-4s pid %d\n", jline_str(h, "name", ""),
                   jline_str(h, "state", ""), jline_str(h, "address", ""),
                   jline_bool(h, "link", false) ? "up" : "down", (int)jline_int(h, "pid", 0));
    }
    json_decref(a);
    return 0;
}

static int exec(const char *socket, char **argv)
{
    json_t *a = ask(socket, json_pack("{s:s}", "op", "list")), *h;
    if (!a)
        return 125;
    size_t i;
    int pid = -1;
    json_array_foreach(json_object_get(a, "hosts"), i, h)
    {
        if (strcmp(jline_str(h, "name", ""), argv[0]) == 0)
            pid = (int)jline_int(h, "pid", 0);
    }
    json_decref(a);
    if (pid <= 0) {
        fprintf(stderr, pid < 0 ? "dumontd: no host %s\n" : "dumontd: %s is off\n", argv[0]);
        return 125;
    }
    /* Without exit handlers: this process is in the namespaces of the host now, where a sanitizer's
     * look for leaks would wait for ever for a helper in another pid namespace. */
    _exit(local_host_exec(pid, argv + 1));
}

int local_cli_main(int argc, char **argv)
{
    const char *socket = getenv("DUMONT_CLOUD");
    int i = 1;
    if (i + 1 < argc && strcmp(argv[i], "--socket") == 0) {
        socket = argv[i + 1];
        i += 2;
    }
    if (i >= argc)
        return usage();
    if (!socket) {
        fprintf(stderr, "dumontd: which cloud? give --socket PATH or set DUMONT_CLOUD\n");
        return 2;
    }
    const char *verb = argv[i];
    int left = argc - i - 1;
    char **rest = argv + i + 1;
    if (strcmp(verb, "list") == 0)
        return left == 0                                 ? list(socket, false)
               : left == 1 && !strcmp(rest[0], "--json") ? list(socket, true)
                                                         : usage();
    if (left < 1)
        return usage();
    if (strcmp(verb, "create") == 0)
        return create(socket, left, rest);
    if (strcmp(verb, "exec") == 0)
        return left >= 2 ? exec(socket, rest) : usage();
    if (strcmp(verb, "link") == 0 && left == 2)
        return !strcmp(rest[1], "up")     ? simple(socket, "link-up", rest[0])
               : !strcmp(rest[1], "down") ? simple(socket, "link-down", rest[0])
                                          : usage();
    static const char *const verbs[] = {"kill", "stop", "destroy", "pause", "resume"};
    for (size_t v = 0; left == 1 && v < sizeof(verbs) / sizeof(verbs[0]); v++)
        if (strcmp(verb, verbs[v]) == 0)
            return simple(socket, verb, rest[0]);
    return usage();
}
