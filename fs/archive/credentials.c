/* credentials.c: where the keys of an object store come from, and nowhere else: the AWS_*
 * environment, or a file that only its owner can read (default /etc/dumont/credentials):
 *
 *     access_key = 004aXXXXXXXX          used for every bucket ...
 *     secret_key = K004XXXXXXXX
 *     [train-archive]                    ... but this one
 *     access_key = 004bXXXXXXXX
 *     secret_key = K004YYYYYYYY
 *
 * Both keys come from the same place: a section that has only one of them is an error, never
 * completed from elsewhere. Failure modes: a file that group or others can read is refused
 * (DMT_E_CONFIG); no keys anywhere is DMT_E_AUTH. Keys never appear in messages or logs. Thread:
 * the caller's. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/archive/objstore_int.h"

#define FILE_MAX 65536

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1]))
        s[--n] = 0;
    return s;
}

static int take(char *dst, size_t size, const char *v)
{
    size_t n = strlen(v);
    if (!n || n >= size)
        return -EINVAL;
    memcpy(dst, v, n + 1);
    return 0;
}

/* Parses the whole file; the bucket's own section wins over the head whatever their order. */
static int parse(char *text, const char *bucket, struct objstore_keys *ret, const char *path,
                 struct dmt_err *err)
{
    struct objstore_keys head = {0}, own = {0}, other, *cur = &head;
    char *save = NULL;
    int line = 0, r = 0;
    for (char *p = strtok_r(text, "\n", &save); p && !r; p = strtok_r(NULL, "\n", &save)) {
        line++;
        p = trim(p);
        if (!*p || *p == '#')
            continue;
        if (*p == '[') {
            size_t n = strlen(p);
            cur = n == strlen(bucket) + 2 && p[n - 1] == ']' && !strncmp(p + 1, bucket, n - 2)
                      ? &own
                      : &other;
            r = p[n - 1] == ']' ? 0 : -EINVAL;
            continue;
        }
        char *eq = strchr(p, '=');
        if (!eq) {
            r = -EINVAL;
            break;
        }
        *eq = 0;
        const char *k = trim(p), *v = trim(eq + 1);
        if (!strcmp(k, "access_key"))
            r = take(cur->access, sizeof(cur->access), v);
        else if (!strcmp(k, "secret_key"))
            r = take(cur->secret, sizeof(cur->secret), v);
        else if (!strcmp(k, "session_token"))
            r = take(cur->token, sizeof(cur->token), v);
        else
            r = -EINVAL;
    }
    if (r)
        dmt_err_set(err, DMT_E_CONFIG, "%s: non-empty line %d is not understood", path, line);
    *ret = own.access[0] || own.secret[0] ? own : head;
    explicit_bzero(&head, sizeof(head));
    explicit_bzero(&own, sizeof(own));
    explicit_bzero(&other, sizeof(other));
    return r ? DMT_E_CONFIG : 0;
}

static int none(struct dmt_err *err, const char *path, const char *bucket)
{
    dmt_err_set(err, DMT_E_AUTH, "no keys for bucket %s", bucket);
    dmt_err_hint(err,
                 "put access_key= and secret_key= into %s (mode 0600) or set AWS_ACCESS_KEY_ID and "
                 "AWS_SECRET_ACCESS_KEY",
                 path);
    return DMT_E_AUTH;
}

static int from_file(const char *path, const char *bucket, struct objstore_keys *ret,
                     struct dmt_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 && errno == ENOENT)
        return none(err, path, bucket);
    if (fd < 0)
        return dmt_err_set(err, DMT_E_CONFIG, "%s: %s", path, dmt_strerror(-errno));
    int r = 0;
    char *text = NULL;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
        r = dmt_err_set(err, DMT_E_CONFIG, "%s is not a small file", path);
    else if ((st.st_mode & 077) || (st.st_uid != geteuid() && st.st_uid != 0))
        r = dmt_err_set(err, DMT_E_CONFIG,
                        "%s can be read by others than its owner (mode %04o, uid %u): refused",
                        path, st.st_mode & 07777, st.st_uid);
    if (r) {
        dmt_err_hint(err, "chown root %s; chmod 600 %s", path, path);
        goto out;
    }
    text = calloc(1, FILE_MAX + 1);
    if (!text)
        r = dmt_err_set(err, -ENOMEM, "out of memory");
    else if (read(fd, text, FILE_MAX) < 0)
        r = dmt_err_set(err, DMT_E_CONFIG, "%s: %s", path, dmt_strerror(-errno));
    else
        r = parse(text, bucket, ret, path, err);
    if (!r && (!ret->access[0] || !ret->secret[0]))
        r = none(err, path, bucket);
out:
    if (text)
        explicit_bzero(text, FILE_MAX);
    free(text);
    close(fd);
    return r;
}

int objstore_keys_load(const char *path, const char *bucket, struct objstore_keys *ret,
                       struct dmt_err *err)
{
    const char *a = getenv("AWS_ACCESS_KEY_ID"), *s = getenv("AWS_SECRET_ACCESS_KEY"),
               *t = getenv("AWS_SESSION_TOKEN");
    memset(ret, 0, sizeof(*ret));
    if (!a || !*a || !s || !*s)
        return from_file(path, bucket, ret, err);
    if (take(ret->access, sizeof(ret->access), a) || take(ret->secret, sizeof(ret->secret), s) ||
        (t && *t && take(ret->token, sizeof(ret->token), t)))
        return dmt_err_set(err, DMT_E_CONFIG, "the AWS_* keys of the environment are too long");
    return 0;
}
