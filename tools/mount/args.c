/* args.c: the command line of mount.dumont, and the options that come with it.
 *
 *   mount.dumont NAME DIR [-sfnv] [-N namespace] [-o options] [-t type]
 *
 * What stands where: -o wins over /etc/dumont/workspaces/NAME.conf; both are checked with the one
 * table (fs/base/options.h). NAME may also come as mount(8) finds it in the mount table:
 * RUN/dev/NAME (fuseblk) or dumont#NAME. Failure: EX_USAGE with the option named.
 */
#include "tools/mount/mount.h"

#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/options.h"

static int usage(void)
{
    (void)fprintf(stderr, "usage: mount.dumont NAME DIR [-sfnv] [-N namespace] [-o options]\n"
                          "       mount -t dumont NAME DIR [-o options]\n");
    return EX_USAGE;
}

/* mount -N: the namespace by path or by pid. */
static int enter_namespace(const char *ns)
{
    char path[64];
    if (strspn(ns, "0123456789") == strlen(ns)) {
        (void)snprintf(path, sizeof(path), "/proc/%.20s/ns/mnt", ns);
        ns = path;
    }
    int fd = open(ns, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || setns(fd, CLONE_NEWNS) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        return complain_text(EX_SYSERR, NULL, "cannot enter the namespace %s: %s", ns,
                             strerror(-rc));
    return EX_OK;
}

static void take_name(struct mount_args *a, const char *source)
{
    char prefix[512];
    (void)snprintf(prefix, sizeof(prefix), "%s/dev/", dmt_dir_run());
    if (strncmp(source, prefix, strlen(prefix)) == 0)
        source += strlen(prefix);
    else if (strncmp(source, "dumont#", 7) == 0)
        source += 7;
    (void)snprintf(a->name, sizeof(a->name), "%s", source);
}

static int load_conf(struct mount_args *a, struct dmt_err *err)
{
    (void)snprintf(a->conf_path, sizeof(a->conf_path), "%s/workspaces/%s.conf", dmt_dir_etc(),
                   a->name);
    int rc = dmt_conf_load(a->conf, a->conf_path, err);
    if (rc == -ENOENT)
        return 0;
    a->have_conf = rc == 0;
    if (rc == 0 && (rc = dmt_options_clean(a->conf, DMT_OPT_IN_CONF, false, err)) < 0)
        dmt_err_wrap(err, "%s", a->conf_path);
    return rc;
}

static int read_options(struct mount_args *a, const char *const *lists, int n, struct dmt_err *err)
{
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = dmt_conf_options(a->options, lists[i], err);
    if (rc < 0)
        return rc;
    /* A remount comes with everything the mount table shows, the kernel's own options among them.
     */
    bool remount = dmt_conf_get(a->options, "remount") != NULL;
    return dmt_options_clean(a->options, DMT_OPT_IN_MOUNT, a->sloppy || remount, err);
}

int mount_parse(struct mount_args *a, int argc, char **argv)
{
    const char *lists[64];
    const char *ns = NULL;
    struct dmt_err err = {0};
    int n_lists = 0, c, rc;

    memset(a, 0, sizeof(*a));
    a->options = dmt_conf_new();
    a->conf = dmt_conf_new();
    opterr = 0;
    while ((c = getopt(argc, argv, "sfnvN:o:t:hV")) != -1) {
        if (c == 'V') {
            (void)printf("%s %s\n", program, DMT_VERSION);
            return -1;
        }
        if (c == 's')
            a->sloppy = true;
        else if (c == 'f')
            a->fake = true;
        else if (c == 'v')
            a->verbose = true;
        else if (c == 'N')
            ns = optarg;
        else if (c == 'o' && n_lists < 64)
            lists[n_lists++] = optarg;
        else if (c != 'n' && c != 't')
            return usage();
    }
    if (argc - optind != 2)
        return usage();
    take_name(a, argv[optind]);
    a->dir_given = argv[optind + 1];
    rc = dmt_workspace_name_check(a->name, &err);
    if (rc == 0)
        rc = read_options(a, lists, n_lists, &err);
    if (rc == 0)
        rc = load_conf(a, &err);
    if (rc == 0) {
        dmt_options_merge(a->conf, a->options);
        rc = dmt_options_consistent(a->conf, &err);
    }
    if (rc < 0)
        return complain(EX_USAGE, &err);
    return ns ? enter_namespace(ns) : EX_OK;
}

void mount_store_dir(const struct mount_args *a, char *path, size_t size)
{
    const char *store = dmt_conf_get(a->conf, "store");
    if (store)
        (void)snprintf(path, size, "%s", store);
    else
        (void)snprintf(path, size, "%s/%s", dmt_dir_state(), a->name);
}
