/* options.c: the table of a workspace's options and what may be said about them.
 *
 * Owns constant tables. mount.dumont, the holder, dumontfs and the `dumont` command all check with
 * this one table, so that a line of fstab, a mount -o and a NAME.conf mean the same and fail with
 * the same sentence. Happy path: load or parse into a dmt_conf, dmt_options_clean() it for the
 * place it came from, merge, dmt_options_consistent() once.
 *
 * Failure: DMT_E_CONFIG with the option named, and where it helps the nearest right spelling as
 * hint. Thread: any.
 */
#include "fs/base/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/bytes.h"
#include "fs/base/limits.h"

#define BOTH DMT_OPT_IN_BOTH
#define MNT  DMT_OPT_IN_MOUNT
#define VFS  (DMT_OPT_IN_BOTH | DMT_OPT_VFS)

static const struct dmt_option table[] = {
    {"store", DMT_OPT_PATH, BOTH, NULL,
     "directory of the journal and the data (/var/lib/dumont/NAME)"},
    {"standby", DMT_OPT_ADDR, BOTH, "empty", "HOST:PORT of the standby; empty: the standby dials"},
    {"listen", DMT_OPT_ADDR, BOTH, NULL, "ADDR:PORT on which the peer is awaited"},
    {"arbiter", DMT_OPT_URL, BOTH, "controller|bucket", "controller://HOST:7402, or bucket"},
    {"archive", DMT_OPT_URL, BOTH, "file|s3|libs3",
     "file:///DIR or s3://BUCKET/PREFIX?endpoint=HOST&region=R"},
    {"sync", DMT_OPT_CHOICE, BOTH, "local|fsync|write", "what is acknowledged by the standby"},
    {"degrade", DMT_OPT_CHOICE, BOTH, "solo|block", "what happens when the standby is gone"},
    {"solo_after", DMT_OPT_DURATION, BOTH, NULL, "wait so long before going on alone (10s)"},
    {"after_promotion", DMT_OPT_CHOICE, BOTH, "serve|readonly", "what a promoted standby does"},
    {"lag_max", DMT_OPT_SIZE, BOTH, NULL, "unacknowledged bytes before writers are slowed (64M)"},
    {"journal_keep", DMT_OPT_SIZE, BOTH, NULL,
     "journal kept for a standby that is away, before it is resynchronised by difference (1G)"},
    {"quota", DMT_OPT_SIZE, BOTH, NULL, "size limit of the workspace; 0: none"},
    {"owner", DMT_OPT_OWNER, BOTH, NULL, "USER[:GROUP] of the root of a new workspace"},
    {"syncfs", DMT_OPT_CHOICE, BOTH, "auto|off", "auto: mounted so that sync(2) reaches Dumont"},
    {"mount_timeout", DMT_OPT_DURATION, BOTH, NULL, "how long mount waits (60s)"},
    {"dma_latency", DMT_OPT_CHOICE, BOTH, "hold|off",
     "hold: keep idle cores awake while requests come"},
    {"log", DMT_OPT_CHOICE, BOTH, "error|warn|info|debug", "level of the log (info)"},
    {"foreground", DMT_OPT_FLAG, MNT, NULL, "mount.dumont stays until the unmount"},
    {"create", DMT_OPT_FLAG, MNT, NULL, "make the workspace if there is none"},
    {"nonempty", DMT_OPT_FLAG, BOTH, NULL, "mount over a directory that is not empty"},
    {"standby-view", DMT_OPT_FLAG, MNT, NULL, "look at a standby, read-only"},
    /* conf only: what a machine is in the pair, set by dumont and dumontd */
    {"role", DMT_OPT_CHOICE, DMT_OPT_IN_CONF, "primary|standby", "what this machine starts as"},
    {"mountpoint", DMT_OPT_PATH, DMT_OPT_IN_CONF, NULL, "where a promotion mounts"},
    {"node", DMT_OPT_TEXT, DMT_OPT_IN_CONF, NULL, "name of this machine (certificate)"},
    {"peer", DMT_OPT_TEXT, DMT_OPT_IN_CONF, NULL, "name of the other machine (certificate)"},
    {"tls_ca", DMT_OPT_PATH, DMT_OPT_IN_CONF, NULL, "PEM of the CA"},
    {"tls_cert", DMT_OPT_PATH, DMT_OPT_IN_CONF, NULL, "PEM of this machine's certificate"},
    {"tls_key", DMT_OPT_PATH, DMT_OPT_IN_CONF, NULL, "PEM of this machine's key"},
    /* the kernel's */
    {"rw", DMT_OPT_FLAG, VFS, NULL, "read-write (default)"},
    {"ro", DMT_OPT_FLAG, VFS, NULL, "read-only"},
    {"suid", DMT_OPT_FLAG, VFS, NULL, "set-user-id works (default)"},
    {"nosuid", DMT_OPT_FLAG, VFS, NULL, "set-user-id does not work"},
    {"dev", DMT_OPT_FLAG, VFS, NULL, "device nodes work (default)"},
    {"nodev", DMT_OPT_FLAG, VFS, NULL, "device nodes do not work"},
    {"exec", DMT_OPT_FLAG, VFS, NULL, "programs may be run (default)"},
    {"noexec", DMT_OPT_FLAG, VFS, NULL, "programs may not be run"},
    {"remount", DMT_OPT_FLAG, MNT, NULL, "change ro/rw of what is mounted"},
    /* defaults that cannot be changed: accepted where they say what is so anyway */
    {"noatime", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"nodiratime", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"relatime", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"allow_other", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"default_permissions", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"async", DMT_OPT_DROP, BOTH, NULL, NULL},
    /* for fstab, systemd and mount(8) */
    {"defaults", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"auto", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"noauto", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"user", DMT_OPT_DROP, MNT, NULL, NULL},
    {"users", DMT_OPT_DROP, MNT, NULL, NULL},
    {"nouser", DMT_OPT_DROP, MNT, NULL, NULL},
    {"group", DMT_OPT_DROP, MNT, NULL, NULL},
    {"nofail", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"_netdev", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"comment", DMT_OPT_DROP, BOTH, NULL, NULL},
    {"uhelper", DMT_OPT_DROP, MNT, NULL, NULL},
    {NULL, DMT_OPT_DROP, 0, NULL, NULL},
};

static const char *const opposites[][2] = {
    {"rw", "ro"}, {"suid", "nosuid"}, {"dev", "nodev"}, {"exec", "noexec"}};

const struct dmt_option *dmt_option_table(void)
{
    return table;
}

const struct dmt_option *dmt_option_find(const char *key)
{
    static const struct dmt_option for_others = {"x-", DMT_OPT_DROP, BOTH, NULL, NULL};
    if (strncmp(key, "x-", 2) == 0 || strncmp(key, "X-", 2) == 0)
        return &for_others;
    for (const struct dmt_option *o = table; o->key; o++)
        if (strcmp(o->key, key) == 0)
            return o;
    return NULL;
}

/* True if word is one of "a|b|c". */
static bool in_list(const char *list, const char *word, size_t len)
{
    for (const char *s = list; *s;) {
        size_t n = strcspn(s, "|");
        if (n == len && strncmp(s, word, n) == 0)
            return true;
        s += n;
        if (*s)
            s++;
    }
    return false;
}

/* Levenshtein distance, cut off for long words: only to say "did you mean". */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[32];
    size_t la = strlen(a), lb = strlen(b);
    if (la > 31 || lb > 31)
        return 99;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diag = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned change = diag + (a[i - 1] != b[j - 1]);
            unsigned add = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diag = row[j];
            row[j] = change < add ? change : add;
        }
    }
    return row[lb];
}

static int unknown(const char *key, unsigned where, struct dmt_err *err)
{
    const struct dmt_option *best = NULL;
    unsigned best_distance = 3;
    for (const struct dmt_option *o = table; o->key; o++) {
        unsigned d = distance(key, o->key);
        if (o->help && (o->where & where) && d < best_distance) {
            best = o;
            best_distance = d;
        }
    }
    dmt_err_set(err, DMT_E_CONFIG, "unknown option '%s'", key);
    if (best)
        dmt_err_hint(err, "did you mean '%s'? mount.dumont(8) lists them all", best->key);
    else
        dmt_err_hint(err, "mount.dumont(8) lists the options");
    return DMT_E_CONFIG;
}

static int bad_value(const struct dmt_option *o, const char *value, const char *want,
                     struct dmt_err *err)
{
    if (*value)
        dmt_err_set(err, DMT_E_CONFIG, "option %s: '%s' is not %s", o->key, value, want);
    else
        dmt_err_set(err, DMT_E_CONFIG, "option %s needs a value: %s", o->key, want);
    dmt_err_hint(err, "%s: %s", o->key, o->help);
    return DMT_E_CONFIG;
}

static bool flag_value_ok(const char *v)
{
    return in_list("|yes|no|true|false|1|0", v, strlen(v)) || !*v;
}

static bool flag_is_off(const char *v)
{
    return strcmp(v, "no") == 0 || strcmp(v, "false") == 0 || strcmp(v, "0") == 0;
}

static bool addr_ok(const char *v)
{
    const char *colon = strrchr(v, ':');
    char *end;
    if (!colon || colon == v || !isdigit((unsigned char)colon[1]))
        return false;
    unsigned long port = strtoul(colon + 1, &end, 10);
    return *end == '\0' && port > 0 && port < 65536;
}

static bool url_ok(const char *v, const char *schemes)
{
    const char *sep = strstr(v, "://");
    if (!sep)
        return strcmp(v, "bucket") == 0 && in_list(schemes, v, strlen(v));
    size_t n = (size_t)(sep - v);
    if (!in_list(schemes, v, n) || strncmp(v, "bucket", n) == 0)
        return false;
    if (strncmp(v, "file", n) == 0)
        return sep[3] == '/';
    if (strncmp(v, "controller", n) == 0)
        return addr_ok(sep + 3);
    return sep[3] != '\0' && sep[3] != '/';
}

int dmt_option_check(const char *key, const char *value, unsigned where, struct dmt_err *err)
{
    const struct dmt_option *o = dmt_option_find(key);
    uint64_t n;

    if (!o)
        return unknown(key, where, err);
    if (o->kind == DMT_OPT_OWNER && !*value && (where & DMT_OPT_IN_MOUNT))
        return 0; /* fstab's flag of the same name: anyone may own the mount; dropped */
    if (!(o->where & where)) {
        bool conf = where & DMT_OPT_IN_CONF;
        dmt_err_set(err, DMT_E_CONFIG, "option '%s' cannot stand %s", key,
                    conf ? "in a workspace's configuration" : "in mount -o");
        dmt_err_hint(err, conf ? "give it with mount -o" : "set it with: dumont workspace set");
        return DMT_E_CONFIG;
    }
    switch (o->kind) {
    case DMT_OPT_DROP:
        return 0;
    case DMT_OPT_FLAG:
        return flag_value_ok(value) ? 0 : bad_value(o, value, "yes or no", err);
    case DMT_OPT_CHOICE:
        return *value && in_list(o->values, value, strlen(value))
                   ? 0
                   : bad_value(o, value, o->values, err);
    case DMT_OPT_SIZE:
        return dmt_parse_size(value, &n) == 0 ? 0
                                              : bad_value(o, value, "a size like 500M or 2T", err);
    case DMT_OPT_DURATION:
        if (*value && strspn(value, "0123456789") == strlen(value) && strlen(value) < 7)
            return 0;
        return dmt_parse_duration_ms(value, &n) == 0
                   ? 0
                   : bad_value(o, value, "a time like 10s or 2m", err);
    case DMT_OPT_PATH:
        return value[0] == '/' && strlen(value) < DMT_PATH_MAX - DMT_NAME_MAX
                   ? 0
                   : bad_value(o, value, "an absolute path", err);
    case DMT_OPT_ADDR:
        if (!*value && o->values)
            return 0;
        return addr_ok(value) ? 0 : bad_value(o, value, "HOST:PORT", err);
    case DMT_OPT_URL:
        return url_ok(value, o->values) ? 0 : bad_value(o, value, o->help, err);
    case DMT_OPT_OWNER:
    case DMT_OPT_TEXT:
        return *value && strlen(value) < 256 ? 0 : bad_value(o, value, "a name", err);
    }
    return 0;
}

static void drop_opposite(struct dmt_conf *c, const char *key)
{
    for (size_t i = 0; i < sizeof(opposites) / sizeof(opposites[0]); i++)
        for (int side = 0; side < 2; side++)
            if (strcmp(key, opposites[i][side]) == 0)
                dmt_conf_unset(c, opposites[i][1 - side]);
}

int dmt_options_clean(struct dmt_conf *c, unsigned where, bool sloppy, struct dmt_err *err)
{
    struct dmt_conf *out = dmt_conf_new();
    int rc = 0;

    for (size_t i = 0; i < dmt_conf_count(c) && rc == 0; i++) {
        const char *key = dmt_conf_key(c, i), *value = dmt_conf_value(c, i);
        const struct dmt_option *o = dmt_option_find(key);
        if (!o && sloppy)
            continue;
        rc = dmt_option_check(key, value, where, err);
        if (rc < 0 || !o || o->kind == DMT_OPT_DROP)
            continue;
        if (o->kind == DMT_OPT_OWNER && !*value)
            continue;
        if (o->kind == DMT_OPT_FLAG && flag_is_off(value))
            continue;
        drop_opposite(out, key);
        dmt_conf_set(out, key, o->kind == DMT_OPT_FLAG ? "" : value);
    }
    if (rc == 0) {
        while (dmt_conf_count(c) > 0)
            dmt_conf_unset(c, dmt_conf_key(c, 0));
        for (size_t i = 0; i < dmt_conf_count(out); i++)
            dmt_conf_set(c, dmt_conf_key(out, i), dmt_conf_value(out, i));
    }
    dmt_conf_free(out);
    return rc;
}

void dmt_options_merge(struct dmt_conf *c, const struct dmt_conf *over)
{
    for (size_t i = 0; i < dmt_conf_count(over); i++) {
        drop_opposite(c, dmt_conf_key(over, i));
        dmt_conf_set(c, dmt_conf_key(over, i), dmt_conf_value(over, i));
    }
}

int dmt_options_consistent(const struct dmt_conf *c, struct dmt_err *err)
{
    const char *sync = dmt_conf_get(c, "sync");
    const char *role = dmt_conf_get(c, "role");
    bool paired = dmt_conf_get(c, "standby") || dmt_conf_get(c, "listen") ||
                  (role && strcmp(role, "standby") == 0);

    if (paired && !dmt_conf_get(c, "arbiter")) {
        dmt_err_set(err, DMT_E_CONFIG, "a standby needs an arbiter that says who may write");
        dmt_err_hint(err,
                     "add arbiter=controller://HOST:7402, or arbiter=bucket with archive=s3://...");
        return DMT_E_CONFIG;
    }
    const char *arbiter = dmt_conf_get(c, "arbiter"), *archive = dmt_conf_get(c, "archive");
    if (arbiter && strcmp(arbiter, "bucket") == 0 && !archive) {
        dmt_err_set(err, DMT_E_CONFIG,
                    "arbiter=bucket needs an object store that both machines reach");
        dmt_err_hint(err, "add archive=s3://BUCKET/PREFIX?endpoint=HOST&region=R");
        return DMT_E_CONFIG;
    }
    if (!paired && sync && strcmp(sync, "local") != 0) {
        dmt_err_set(err, DMT_E_CONFIG, "sync=%s needs a standby", sync);
        dmt_err_hint(err, "add standby=HOST:PORT or listen=ADDR:PORT, and arbiter=; or sync=local");
        return DMT_E_CONFIG;
    }
    if (dmt_conf_get(c, "standby-view") && !dmt_conf_get(c, "ro")) {
        dmt_err_set(err, DMT_E_CONFIG, "standby-view needs ro: a standby can only be read");
        dmt_err_hint(err, "mount -o ro,standby-view");
        return DMT_E_CONFIG;
    }
    return 0;
}

/* Values with a comma, a quote or a backslash are quoted. */
static void put_value(struct dmt_buf *b, const char *v)
{
    if (!strpbrk(v, ",\"\\")) {
        dmt_put_raw(b, v, strlen(v));
        return;
    }
    dmt_put_u8(b, '"');
    for (; *v; v++) {
        if (*v == '"' || *v == '\\')
            dmt_put_u8(b, '\\');
        dmt_put_u8(b, (uint8_t)*v);
    }
    dmt_put_u8(b, '"');
}

char *dmt_options_join(const struct dmt_conf *c)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    for (size_t i = 0; i < dmt_conf_count(c); i++) {
        const char *key = dmt_conf_key(c, i);
        const struct dmt_option *o = dmt_option_find(key);
        if (i > 0)
            dmt_put_u8(&b, ',');
        dmt_put_raw(&b, key, strlen(key));
        if (o && o->kind == DMT_OPT_FLAG)
            continue;
        dmt_put_u8(&b, '=');
        put_value(&b, dmt_conf_value(c, i));
    }
    dmt_put_u8(&b, '\0');
    if (b.bad) {
        dmt_buf_free(&b);
        return NULL;
    }
    return (char *)b.p;
}

int dmt_workspace_name_check(const char *name, struct dmt_err *err)
{
    size_t n = strlen(name);
    bool ok = n > 0 && n <= DMT_WS_NAME_MAX && isalnum((unsigned char)name[0]);
    for (size_t i = 0; ok && i < n; i++)
        ok = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
    if (ok)
        return 0;
    dmt_err_set(err, DMT_E_CONFIG, "'%s' is not a name of a workspace", name);
    dmt_err_hint(err,
                 "letters, digits, '.', '_' and '-', at most %u, the first a letter or a digit",
                 DMT_WS_NAME_MAX);
    return DMT_E_CONFIG;
}

static const char *dir_or(const char *variable, const char *fallback)
{
    const char *v = getenv(variable);
    return v && v[0] == '/' ? v : fallback;
}

const char *dmt_dir_etc(void)
{
    return dir_or("DUMONT_ETC", "/etc/dumont");
}

const char *dmt_dir_run(void)
{
    return dir_or("DUMONT_RUN", "/run/dumont");
}

const char *dmt_dir_state(void)
{
    return dir_or("DUMONT_STATE", "/var/lib/dumont");
}

const char *dmt_dir_log(void)
{
    return dir_or("DUMONT_LOG", "/var/log/dumont");
}
