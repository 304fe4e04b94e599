/* rate.c: how much may stand before a small frame on the wire.
 *
 * A frame that somebody waits for goes behind what the kernel has taken and not sent yet, and
 * behind the bulk frame that is being written. On a fast link both are nothing; at 100 Mbit/s twice
 * 64 KiB are 10 ms. So both are cut to what the link sends in FRAME_US, by the kernel's own
 * measurement of it (TCP_INFO). Failure modes: no measurement (an idle connection says nothing of
 * its link): what was known last, at first the most. Thread: loop. In a file of its own because
 * <linux/tcp.h>, which has the field, and <netinet/tcp.h> exclude each other.
 */
#include "fs/replica/rate.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define FRAME_US 800u

unsigned replica_frame_bytes(int fd, unsigned last)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        len < offsetof(struct tcp_info, tcpi_delivery_rate) + sizeof(info.tcpi_delivery_rate) ||
        info.tcpi_delivery_rate_app_limited || info.tcpi_delivery_rate == 0)
        return last;
    uint64_t n = info.tcpi_delivery_rate * FRAME_US / 1000000;
    return n < FRAME_BYTES_MIN   ? FRAME_BYTES_MIN
           : n < FRAME_BYTES_MAX ? (unsigned)n
                                 : FRAME_BYTES_MAX;
}
