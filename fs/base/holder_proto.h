/* holder_proto.h: how a holder (fs/holder) and its workspace process (dumontfs) talk, and how a holder tells who started it
 * that it is ready. Programs meet over these two channels only.
 *
 * The holder owns the FUSE connection (the descriptor, the saved INIT request, the mount instance id), the mount itself and the
 * loop device under it, so that a later workspace process can take over a mount of a dead one. It starts
 *
 *     dumontfs --name NAME --holder-fd N [--mountpoint DIR] [--conf FILE] [-o OPTIONS] [--foreground] [--resume INSTANCE]
 *
 * with N one end of a SOCK_SEQPACKET pair, stdin /dev/null, stdout and stderr the log (dumontfs logs to stderr). OPTIONS
 * override FILE; both were checked with dmt_options_clean (fs/base/options.h). One datagram = one message:
 * u16 magic, u16 version, u16 type, then the fields of the type (fs/base/bytes.h encoding); at most one descriptor rides along.
 *
 *   workspace -> holder
 *     HELLO    pid                    first message; a holder ends the pair on another version
 *     MOUNT    dir, options           "I can serve": mount now. Empty dir: the holder's --mountpoint; options: comma list of
 *                                     mount flags (ro,nosuid,...) on top of the holder's own. From a successor (--resume): give
 *                                     me the connection that is there, dir and options are not looked at
 *     UNMOUNT  flags                  umount (DMT_HP_LAZY: detach at once). Also sent when the connection ended by itself
 *                                     (dmt_fuse on_end), so that the holder lets go of it. Answer: UNMOUNTED
 *     READY    code, text, hint       passed to whoever started the holder, at most once. code: exit code of mount(8);
 *                                     0 = serving (or: standby running, when the agent started it); 32 = alive but not
 *                                     mounted ("held by X since epoch N; standby started here")
 *     FAILED   code, text, hint       as READY, but the workspace process gives up: its store is closed, and it exits
 *   holder -> workspace
 *     FUSE     instance, flags, dev, dir, init + descriptor   the answer to MOUNT: serve this connection
 *     NOMOUNT  code, text, hint       the answer to MOUNT: it failed (code: positive errno)
 *     UNMOUNTED code                  the answer to UNMOUNT: 0, or a positive errno (EBUSY: in use)
 *     TERMINATE flags                 stop: drain, UNMOUNT, exit 0
 *
 * A process that dies while it serves gets a successor, started with --resume and the mount's instance: the connection is still
 * there and users wait. It recovers, opens its epoch, says MOUNT and gets FUSE with DMT_HP_RESUME; it has the kernel send again
 * what was not answered, and serves (READY). One that may not serve any more says UNMOUNT. Exit status DMT_HP_EXIT_RESTART asks
 * for just that. The holder gives up after a few lives of less than a second, after FAILED, or when there is no READY in
 * mount_timeout.
 *
 * Either side's end of file = the other is gone. The workspace process then drains, unmounts `dir` itself (umount2) and exits;
 * the holder ends the mount (abort, detach), frees the loop device and exits non-zero.
 * Exit status of dumontfs: 0 = ended on purpose (unmounted, terminated): the holder cleans up and exits 0 as well;
 * DMT_HP_EXIT_RESTART = everything is durable, start me (or the version that stands there now) anew.
 *
 * Thread: a socket end belongs to one reading thread; dmt_hp_send may be called from any thread. */
#ifndef DMT_BASE_HOLDER_PROTO_H
#define DMT_BASE_HOLDER_PROTO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/base/err.h"

#define DMT_HP_MAGIC    0x4d44u /* "DM" */
#define DMT_HP_VERSION  1u
#define DMT_HP_INIT_MAX 512u    /* bytes of a FUSE INIT request, header included (104 today) */
#define DMT_HP_DIR_MAX  4096u
#define DMT_HP_TEXT_MAX 512u
#define DMT_HP_OPTS_MAX 4096u
#define DMT_HP_MSG_MAX  16384u

#define DMT_HP_EXIT_RESTART 3

enum dmt_hp_type {
    DMT_HP_HELLO = 1,
    DMT_HP_MOUNT,
    DMT_HP_UNMOUNT,
    DMT_HP_READY,
    DMT_HP_FAILED,
    DMT_HP_FUSE = 64,
    DMT_HP_NOMOUNT,
    DMT_HP_UNMOUNTED,
    DMT_HP_TERMINATE,
};

/* Bits of `flags`. */
#define DMT_HP_LAZY   1u /* UNMOUNT: detach at once, users or not */
#define DMT_HP_SYNCFS 2u /* FUSE: the kernel passes syncfs and sync on (fuseblk on 6.18 or later) and waits for DESTROY */
#define DMT_HP_RESUME 4u /* FUSE: the connection served before: have the unanswered requests sent again */
#define DMT_HP_RDONLY 8u /* FUSE: mounted read-only */

/* One message; fields that the type does not have are zero or empty. Large: keep it off small stacks. */
struct dmt_hp_msg {
    enum dmt_hp_type type;
    uint32_t pid;
    uint32_t flags;
    uint32_t code;
    uint32_t instance; /* random, new for each mount(2); goes into the records */
    uint64_t dev;      /* st_dev of the mount, as statx gives it (makedev(major, minor)) */
    char dir[DMT_HP_DIR_MAX];
    char options[DMT_HP_OPTS_MAX];
    char text[DMT_HP_TEXT_MAX];
    char hint[DMT_HP_TEXT_MAX];
    uint32_t init_len;
    uint8_t init[DMT_HP_INIT_MAX];
    int fd;            /* FUSE: the connection, owned by the receiver; else -1 */
};

/* Encodes and sends m (m->fd >= 0 rides along, and stays the caller's). 0 or -errno; -EPIPE when the other end is gone. */
int dmt_hp_send(int sock, const struct dmt_hp_msg *m);
/* Waits for one message: 0; DMT_E_CLOSED at the end; DMT_E_VERSION; DMT_E_CORRUPT; -errno (-EAGAIN on a non-blocking socket). */
int dmt_hp_recv(int sock, struct dmt_hp_msg *ret);
/* The two halves without a socket, for tests and the fuzzer. encode: length, or -EMSGSIZE. */
ssize_t dmt_hp_encode(const struct dmt_hp_msg *m, uint8_t *buf, size_t size);
int dmt_hp_decode(const void *buf, size_t len, struct dmt_hp_msg *ret);

/* --- is there a holder? RUN/NAME.holder is locked (flock, shared) by every holder of NAME for as long as it lives. While one
 * lives, a workspace process that does not answer is being replaced, or is on its way out. */
/* The lock, to be kept open; < 0: none, and nobody can tell. */
int dmt_holder_mark(const char *name);
bool dmt_holder_lives(const char *name);

/* --- ready: holder -> whoever started it, through --ready-fd N (a pipe)
 * The holder writes "CODE\nTEXT\nHINT\n" once and closes. End of file without it = the holder died. */
void dmt_ready_write(int fd, int code, const char *text, const char *hint);
/* Waits at most timeout_ms. 0 with *ret_code and err->msg/hint filled; -ETIMEDOUT; DMT_E_CLOSED; -EINTR when *stop became
 * non-zero. */
int dmt_ready_read(int fd, int timeout_ms, const volatile int *stop, int *ret_code, struct dmt_err *err);

#endif
