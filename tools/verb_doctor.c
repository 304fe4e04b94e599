/* verb_doctor.c: `dumont doctor`: is this machine fit? One line per check: ok, warn or FAIL with
 * what to do. One thread; changes nothing but a probe file. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/options.h"
#include "fs/base/tls.h"
#include "tools/dumont.h"

struct report {
    json_t *list;
    int failures;
};

static void say(struct report *r, const char *check, int level, const char *text)
{
    static const char *const word[] = {"ok", "warn", "FAIL"};
    if (level == 2)
        r->failures++;
    json_array_append_new(
        r->list, json_pack("{s:s, s:s, s:s}", "check", check, "result", word[level], "text", text));
    if (!opt_json)
        printf("%-5s %-10s %s\n", word[level], check, text);
}

static void check_fuse(struct report *r)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        say(r, "fuse", 0, "/dev/fuse can be opened");
    } else if (errno == ENOENT) {
        say(r, "fuse", 2,
            "no /dev/fuse: load the module (modprobe fuse), or start the container with --device /dev/fuse");
    } else {
        say(r, "fuse", 2,
            "/dev/fuse cannot be opened: run as root; in a container add --device /dev/fuse --cap-add SYS_ADMIN");
    }
}

static void check_kernel(struct report *r)
{
    struct utsname u;
    char text[256];
    unsigned major = 0, minor = 0;
    uname(&u);
    sscanf(u.release, "%u.%u", &major, &minor);
    unsigned v = major * 1000 + minor;
    snprintf(
        text, sizeof text, "Linux %s%s", u.release,
        v >= 6018
            ? ": sync(2) and syncfs(2) reach the workspace"
            : ": sync(2) and syncfs(2) may not reach a FUSE filesystem; use fsync, which covers everything before it");
    say(r, "kernel", v >= 5004 ? (v >= 6018 ? 0 : 1) : 2, text);
}

static int cmp_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void check_disk(struct report *r)
{
    char path[4200], text[256], free_text[32];
    uint64_t took[21];
    struct statvfs v;
    const struct dmt_clock *clk = dmt_clock_real();
    const char *dir = access(dmt_dir_state(), F_OK) == 0 ? dmt_dir_state() : "/var/lib";
    snprintf(path, sizeof path, "%s/.doctor-XXXXXX", dir);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        snprintf(text, sizeof text, "cannot write in %.200s", dir);
        say(r, "disk", 2, text);
        return;
    }
    char block[4096] = {1};
    for (int i = 0; i < 21; i++) {
        uint64_t t = clk->monotonic_ns(clk->ctx);
        if (pwrite(fd, block, sizeof block, 0) != (ssize_t)sizeof block || fdatasync(fd) != 0)
            break;
        took[i] = clk->monotonic_ns(clk->ctx) - t;
    }
    unlink(path);
    close(fd);
    progress_end();
    qsort(took, 21, sizeof *took, cmp_u64);
    statvfs(dir, &v);
    uint64_t avail = (uint64_t)v.f_bavail * v.f_frsize;
    snprintf(text, sizeof text, "%.150s: a 4 KiB fdatasync takes %.2f ms (median of 21); %s free",
             dir, (double)took[10] / 1e6, human_bytes(avail, free_text));
    say(r, "disk", avail < (1ull << 30) || took[10] > 50 * DMT_MS ? 1 : 0, text);
}

static void check_clock(struct report *r)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->realtime_ns(clk->ctx) / DMT_S;
    bool sane = now > 1735689600ull; /* 2025-01-01 */
    say(r, "clock", sane ? 0 : 1,
        sane ? "the date is plausible; nothing that keeps data safe rests on it"
             : "the date is in the past: set the clock (times in listings will be wrong)");
}

static void check_tls(struct report *r)
{
    char path[4200], text[400], date[DMT_CERT_TIME];
    struct dmt_cert_life life;
    struct dmt_err err = {0};
    snprintf(path, sizeof path, "%s/tls/node.pem", dmt_dir_etc());
    if (access(path, F_OK) != 0) {
        say(r, "tls", 1,
            "no node certificate: needed for a standby (on the controller: dumontd token NODE)");
        return;
    }
    if (dmt_cert_life(path, &life, &err) != 0) {
        say(r, "tls", 2, err.msg);
        return;
    }
    dmt_cert_time(life.until_s, date);
    int64_t left = dmt_cert_left_s(&life);
    if (left <= 0)
        snprintf(text, sizeof text,
                 "the certificate of %s has expired on %s: on the controller `dumontd token %s`, "
                 "here `dumontd join TOKEN`",
                 life.node, date, life.node);
    else if (left * 4 < life.life_s)
        snprintf(text, sizeof text,
                 "the certificate of %s ends on %s and was not renewed: is dumontd running, and "
                 "connected to its controller?",
                 life.node, date);
    else
        snprintf(text, sizeof text, "the certificate of %s is good until %s", life.node, date);
    say(r, "tls", left <= 0 ? 2 : left * 4 < life.life_s ? 1 : 0, text);
    snprintf(path, sizeof path, "%s/tls/ca.pem", dmt_dir_etc());
    if (dmt_cert_life(path, &life, &err) == 0 && dmt_ca_late(&life)) {
        snprintf(text, sizeof text,
                 "the certificate of the CA ends on %s, and every other one with it: `dumontd ca "
                 "renew` where ca.key is, then its ca.pem to the machines",
                 dmt_cert_time(life.until_s, date));
        say(r, "tls", dmt_cert_left_s(&life) <= 0 ? 2 : 1, text);
    }
}

static void check_agent(struct report *r)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/dumontd.sock", dmt_dir_run());
    if (access(path, F_OK) == 0)
        say(r, "dumontd", 0, "runs here");
    else
        say(r, "dumontd", 1,
            "not running here: needed for a standby and for failover, not for a single machine");
}

static int run(int argc, char **argv)
{
    (void)argv;
    if (argc != 1)
        return usage_of(&verb_doctor);
    struct report r = {.list = json_array()};
    check_fuse(&r);
    check_kernel(&r);
    progress("trying the disk", 0, 0, "");
    check_disk(&r);
    progress_end();
    check_clock(&r);
    check_tls(&r);
    check_agent(&r);
    if (opt_json)
        print_json(r.list);
    json_decref(r.list);
    return r.failures ? EXIT_DIFFERS : EXIT_OK;
}

const struct verb verb_doctor = {
    "doctor", "[--json]", "is this machine fit: /dev/fuse, kernel, disk, clock, certificates", run};
