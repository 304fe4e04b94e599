/* rate.h: the size of bulk frames, and of what the kernel takes but has not sent, by the link's rate (rule R6). Thread: loop. */
#ifndef DMT_REPLICA_RATE_H
#define DMT_REPLICA_RATE_H

#define FRAME_BYTES_MIN (16u << 10)
#define FRAME_BYTES_MAX (64u << 10)

/* For the connected socket fd, in bytes; last: what was known so far, returned when the kernel cannot tell. */
unsigned replica_frame_bytes(int fd, unsigned last);

#endif
