/* provider.c: the table of providers. Owns nothing. Thread: any.
 */
#include "daemon/provider/provider.h"

#include <string.h>

#include "daemon/provider/local.h"

struct provider *provider_open(const char *name, const struct dmt_conf *conf, struct dmt_err *err)
{
    if (strcmp(name, "local") == 0) {
        const char *socket = dmt_conf_get(conf, "provider.local");
        return local_provider_open(socket ? socket : LOCAL_SOCKET_IN_HOST, err);
    }
    dmt_err_set(err, -EINVAL, "there is no provider '%s'", name);
    dmt_err_hint(err, "known: local");
    return NULL;
}
