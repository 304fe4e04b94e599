/* main.c: dumontd, one program: agent, controller, the small CA, the local cloud.
 *
 * Owns the choice of what to be. `dumontd [--config FILE] [--foreground]` is the daemon (run.c),
 * the words below are tools in the same binary. Exit codes: 0, 1 failed (one sentence on stderr), 2
 * usage. Thread: main.
 */
#include <string.h>

#include "daemon/dumontd.h"
#include "daemon/provider/local.h"
#include "fs/base/log.h"

int main(int argc, char **argv)
{
    static const struct {
        const char *word;
        int (*fn)(int argc, char **argv);
    } words[] = {{"ca", dumontd_ca_main},
                 {"token", dumontd_token_main},
                 {"join", dumontd_join_main},
                 {"local-cloud", local_cloud_main},
                 {"local-host", local_cli_main}};
    (void)dmt_log_init("dumontd", NULL, DMT_LOG_INFO);
    for (size_t i = 0; argc > 1 && i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(argv[1], words[i].word) == 0)
            return words[i].fn(argc - 1, argv + 1);
    return dumontd_run_main(argc, argv);
}
