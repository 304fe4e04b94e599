/* verb_file.c: `dumont receipt FILE...` (where are these bytes) and `dumont heal FILE...` (put back
 * late-arrived bytes from a branch). FILE is a path in a mount; the mount table says which
 * workspace. One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include "tools/dumont.h"

static const char *place(const json_t *r, const char *key)
{
    const char *s = json_str(r, key);
    return *s ? s : "none configured";
}

static void print_receipt(const char *file, const json_t *r)
{
    char a[32];
    printf("%s: %s, last changed at position %" PRIu64 " of epoch %s\n", file,
           human_bytes(json_u64(r, "size"), a), json_u64(r, "seq"), json_str(r, "epoch"));
    printf("  journal here  %s\n  standby       %s\n  archive       %s\n", place(r, "journal"),
           place(r, "standby"), place(r, "archive"));
}

/* Runs cmd for each file; print may be NULL. */
static int for_files(const struct verb *v, const char *cmd, int argc, char **argv,
                     void (*print)(const char *file, const json_t *r))
{
    int worst = EXIT_OK;
    json_t *all = json_array();
    bool words = argc >= 2;
    for (int i = 1; i < argc; i++)
        words &= argv[i][0] != '-'; /* a file of such a name: ./-x */
    if (!words) {
        json_decref(all);
        return usage_of(v);
    }
    for (int i = 1; i < argc; i++) {
        struct dmt_err err = {0};
        char ws[65], inside[4096];
        json_t *r = NULL;
        int rc = ws_of_path(argv[i], ws, inside, &err);
        if (rc == 0)
            rc = control_call(ws, json_pack("{s:s, s:s}", "cmd", cmd, "path", inside), &r, &err);
        if (rc != 0) {
            worst = fail_call(rc, &err);
            continue;
        }
        json_object_set_new(r, "file", json_bytes(argv[i]));
        if (!opt_json)
            print(argv[i], r);
        json_array_append_new(all, r);
    }
    if (opt_json)
        print_json(all);
    json_decref(all);
    return worst;
}

static int run_receipt(int argc, char **argv)
{
    return for_files(&verb_receipt, "receipt", argc, argv, print_receipt);
}
const struct verb verb_receipt = {
    "receipt", "FILE...", "where a file's bytes are: journal, standby, archive", run_receipt};

static void print_heal(const char *file, const json_t *r)
{
    printf("%s: %s\n", file, json_str(r, "text"));
}
static int run_heal(int argc, char **argv)
{
    return for_files(&verb_heal, "heal", argc, argv, print_heal);
}
const struct verb verb_heal = {"heal", "FILE...",
                               "put back late-arrived bytes of an incomplete file from its branch",
                               run_heal};
