/* dumont.c: the `dumont` command: finds the verb, takes --json and --help out of the words, runs
 * it. One thread.
 * Happy path: dumont VERB [WORDS] -> verb->run -> exit code. Failure: one sentence on stderr, a
 * hint below it, exit code of dumont.h.
 */
#include "tools/dumont.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>
#include "fs/base/log.h"

bool opt_json;

static const struct verb *const verbs[] = {
    &verb_status, &verb_workspace, &verb_snapshot, &verb_rollback, &verb_restore, &verb_receipt,
    &verb_heal,   &verb_flush,     &verb_handover, &verb_promote,  &verb_fence,   &verb_check,
    &verb_verify, &verb_log,       &verb_doctor,   &verb_node,
};
#define VERBS (sizeof verbs / sizeof verbs[0])

static int help(FILE *to)
{
    fprintf(
        to,
        "dumont %s: workspaces that survive the loss of their machine\n\nusage: dumont VERB [WORDS] [--json]\n\n",
        DMT_VERSION);
    for (size_t i = 0; i < VERBS; i++)
        fprintf(to, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(to,
            "\n`dumont VERB --help` shows the words of a verb; dumont(1) has the whole story.\n");
    return to == stdout ? EXIT_OK : EXIT_USAGE;
}

int usage_of(const struct verb *v)
{
    fprintf(stderr, "usage: dumont %s %s\n", v->name, v->args);
    return EXIT_USAGE;
}

/* Takes --json out of argv; returns the new argc. */
static int take_json(int argc, char **argv)
{
    int n = 0;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            opt_json = true;
        else
            argv[n++] = argv[i];
    }
    argv[n] = NULL;
    return n;
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    dmt_log_init("dumont", NULL, DMT_LOG_WARN);
    argc = take_json(argc, argv);
    if (argc < 2)
        return help(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        printf("dumont %s\n", DMT_VERSION);
        return EXIT_OK;
    }
    for (size_t i = 0; i < VERBS; i++) {
        if (strcmp(verbs[i]->name, argv[1]) != 0)
            continue;
        if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
            printf("usage: dumont %s %s\n\n%s\n", verbs[i]->name, verbs[i]->args,
                   verbs[i]->summary);
            return EXIT_OK;
        }
        return verbs[i]->run(argc - 1, argv + 1);
    }
    return failf(EXIT_USAGE, "`dumont --help` lists the verbs.", "unknown verb \"%s\"", argv[1]);
}
