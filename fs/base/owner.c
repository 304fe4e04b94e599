/* owner.c: owner=USER[:GROUP] of a new workspace's root. Numbers are taken as they are, so that a
 * machine without the user can be told too. Failure: DMT_E_CONFIG naming the word that is unknown.
 * Thread: any.
 */
#include "fs/base/owner.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *s, uint32_t *ret)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(s, &end, 10);
    if (!*s || *end || errno || v > UINT32_MAX - 1)
        return -EINVAL;
    *ret = (uint32_t)v;
    return 0;
}

int dmt_owner_parse(const char *spec, uint32_t *ret_uid, uint32_t *ret_gid, struct dmt_err *err)
{
    char user[128], buf[4096];
    struct passwd pw, *pwp = NULL;
    struct group gr, *grp = NULL;
    uint32_t uid, gid = 0;
    const char *colon = strchr(spec, ':');
    size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
    if (n == 0 || n >= sizeof user)
        return dmt_err_set(err, DMT_E_CONFIG, "owner=%s: not USER or USER:GROUP", spec);
    memcpy(user, spec, n);
    user[n] = '\0';
    if (number(user, &uid) != 0) {
        if (getpwnam_r(user, &pw, buf, sizeof buf, &pwp) != 0 || !pwp)
            return dmt_err_set(err, DMT_E_CONFIG, "owner=%s: no user \"%s\" on this machine", spec,
                               user);
        uid = pwp->pw_uid;
        gid = pwp->pw_gid;
    }
    if (colon && number(colon + 1, &gid) != 0) {
        if (getgrnam_r(colon + 1, &gr, buf, sizeof buf, &grp) != 0 || !grp)
            return dmt_err_set(err, DMT_E_CONFIG, "owner=%s: no group \"%s\" on this machine", spec,
                               colon + 1);
        gid = grp->gr_gid;
    }
    *ret_uid = uid;
    *ret_gid = gid;
    return 0;
}
