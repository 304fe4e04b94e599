/* timers.c: rule 25, the inequalities between the timers.
 *
 * Safety of plain calls: the holder must be silent before the follower may ask, with clocks that
 * differ by rho in the worst direction and a reply that leaves g after the gate: f*H/(1-rho) + g <=
 * H/(1+rho). No stall without need: k lost pings, a round trip and a scheduling stall fit into the
 * lease: (k+1)*h + R + q <= f*H*(1-rho). No failover without need: (k+1)*h + q <= s = H. Refused
 * with the numbers, because a person who set one of them must see which to change. Pure functions.
 */
#include "fs/lease/core.h"

static void dflt(uint32_t *v, uint32_t d)
{
    if (*v == 0)
        *v = d;
}

int dmt_lease_timers_check(struct dmt_lease_timers *t, struct dmt_err *err)
{
    dflt(&t->ping_ms, 60);
    dflt(&t->lease_ms, 600);
    dflt(&t->f_permille, 750);
    dflt(&t->rho_permille, 10);
    dflt(&t->gate_ms, 130);
    dflt(&t->stall_ms, 200);
    dflt(&t->lost_pings, 2);
    dflt(&t->rtt_ms, 1);
    if (t->lease_ms > LEASE_H_MAX_MS)
        return dmt_err_set(err, DMT_E_CONFIG, "a lease of %u ms is longer than %u ms", t->lease_ms,
                           LEASE_H_MAX_MS);
    if (t->f_permille > 999 || t->rho_permille > 500)
        return dmt_err_set(err, DMT_E_CONFIG, "f = %u/1000 and rho = %u/1000 are out of range",
                           t->f_permille, t->rho_permille);
    double h = t->ping_ms, lease = t->lease_ms, f = t->f_permille / 1000.0;
    double rho = t->rho_permille / 1000.0, g = t->gate_ms, q = t->stall_ms, r = t->rtt_ms;
    double k1 = (double)t->lost_pings + 1;
    if (f * lease / (1 - rho) + g > lease / (1 + rho))
        return dmt_err_set(err, DMT_E_CONFIG,
                           "lease %.0f ms: f*H/(1-rho)+g = %.0f ms exceeds H/(1+rho) = %.0f ms",
                           lease, f * lease / (1 - rho) + g, lease / (1 + rho));
    if (k1 * h + r + q > f * lease * (1 - rho))
        return dmt_err_set(err, DMT_E_CONFIG,
                           "ping %.0f ms: (k+1)*h+R+q = %.0f ms exceeds f*H*(1-rho) = %.0f ms", h,
                           k1 * h + r + q, f * lease * (1 - rho));
    if (k1 * h + q > lease)
        return dmt_err_set(err, DMT_E_CONFIG,
                           "ping %.0f ms: (k+1)*h+q = %.0f ms exceeds s = %.0f ms", h, k1 * h + q,
                           lease);
    return 0;
}
