/* faultvfs.c: SQLite's operations on the double's disk.
 *
 * A VFS around SQLite's own ("unix"), registered as the default one with the first double. Files
 * below the root of a living double are noted in its disk model and take faultio_enter like the
 * operations of the seam; all others pass. Locks, the WAL index and everything else are SQLite's
 * own, so that the connections behave as in production. The name of a new WAL is durable with the
 * first sync of the file: the unix VFS syncs the folder then.
 *
 * Failure modes: an injected or cut operation gives the SQLite code that the unix VFS would give
 * for the errno. Thread: any; the lock of the double around each operation.
 */
#include <sqlite3.h>
#include <sys/stat.h>

#include "tests/lib/faultio_int.h"

struct vfile {
    sqlite3_file base;
    struct faultio *f; /* NULL: not ours */
    struct file *file;
    char *path;
    bool sync_dir; /* the first sync makes the name durable */
    sqlite3_file *real;
};

static sqlite3_vfs g_vfs, *g_unix;
static sqlite3_io_methods g_methods;
static struct faultio *g_all;
static pthread_mutex_t g_all_lock = PTHREAD_MUTEX_INITIALIZER;

static struct faultio *of_path(const char *path)
{
    struct faultio *f;
    pthread_mutex_lock(&g_all_lock);
    for (f = path ? g_all : NULL; f; f = f->next)
        if (strncmp(path, f->root, f->root_len) == 0 && path[f->root_len] == '/')
            break;
    pthread_mutex_unlock(&g_all_lock);
    return f;
}

static void dir_of(const char *path, char dir[4096])
{
    MUST((size_t)snprintf(dir, 4096, "%s", path) < 4096);
    *strrchr(dir, '/') = '\0';
}

static int code(int r, int io_code)
{
    return r == -ENOSPC ? SQLITE_FULL : io_code;
}

/* --- files ------------------------------------------------------------------------------------ */

static int v_close(sqlite3_file *file)
{
    struct vfile *v = (struct vfile *)(void *)file;
    int rc = v->real->pMethods ? v->real->pMethods->xClose(v->real) : SQLITE_OK;
    if (v->f) {
        pthread_mutex_lock(&v->f->lock);
        faultio_forget(&v->f->disk, v->file);
        pthread_mutex_unlock(&v->f->lock);
    }
    free(v->path);
    return rc;
}

/* Locks, asks; the lock is held on return. */
static int begin(struct vfile *v, unsigned kind, bool *cut)
{
    *cut = false;
    if (!v->f)
        return 0;
    pthread_mutex_lock(&v->f->lock);
    return faultio_enter(v->f, kind, v->path, cut);
}

static void end(struct vfile *v)
{
    if (v->f)
        pthread_mutex_unlock(&v->f->lock);
}

static int v_read(sqlite3_file *file, void *buf, int n, sqlite3_int64 off)
{
    struct vfile *v = (struct vfile *)(void *)file;
    bool cut;
    int r = begin(v, FAULTIO_READ, &cut);
    int rc = r < 0 ? SQLITE_IOERR_READ : v->real->pMethods->xRead(v->real, buf, n, off);
    end(v);
    return rc;
}

static int v_write(sqlite3_file *file, const void *buf, int n, sqlite3_int64 off)
{
    struct vfile *v = (struct vfile *)(void *)file;
    sqlite3_int64 size = 0;
    bool cut;
    int r = begin(v, FAULTIO_WRITE, &cut);
    if (r == 0 && v->f && v->real->pMethods->xFileSize(v->real, &size) == SQLITE_OK)
        r = faultio_take(v->f, (uint64_t)size, (uint64_t)(off + n));
    int rc = code(r, SQLITE_IOERR_WRITE);
    if (r == 0 || cut) { /* a write that is cut is pending as a whole */
        if (v->f)
            faultio_change(v->file, (uint64_t)off, buf, (uint64_t)n);
        int w = v->real->pMethods->xWrite(v->real, buf, n, off);
        rc = r == 0 ? w : rc;
    }
    end(v);
    return rc;
}

static int v_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct vfile *v = (struct vfile *)(void *)file;
    sqlite3_int64 old = 0;
    bool cut;
    int r = begin(v, FAULTIO_TRUNCATE, &cut);
    if (r == 0 && v->f && v->real->pMethods->xFileSize(v->real, &old) == SQLITE_OK)
        faultio_give(v->f, (uint64_t)old, (uint64_t)size);
    int rc = r < 0 ? SQLITE_IOERR_TRUNCATE : v->real->pMethods->xTruncate(v->real, size);
    if (rc == SQLITE_OK && v->f)
        faultio_change(v->file, 0, NULL, (uint64_t)size);
    end(v);
    return rc;
}

static int v_sync(sqlite3_file *file, int flags)
{
    struct vfile *v = (struct vfile *)(void *)file;
    char dir[4096];
    bool cut;
    if (!v->f)
        return v->real->pMethods->xSync(v->real, flags);
    int r = begin(v, FAULTIO_SYNC, &cut);
    if (!v->f->is_cut)
        faultio_synced(v->file, r == 0);
    if (r == 0 && v->sync_dir) {
        dir_of(v->path, dir);
        faultio_sync_names(&v->f->disk, faultio_below(v->f, dir));
        v->sync_dir = false;
    }
    end(v);
    return r < 0 ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int v_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    struct vfile *v = (struct vfile *)(void *)file;
    return v->f && faultio_is_cut(v->f) ? SQLITE_IOERR_FSTAT
                                        : v->real->pMethods->xFileSize(v->real, ret);
}

#define REAL(file) (((struct vfile *)(void *)(file))->real)

static int v_lock(sqlite3_file *file, int how)
{
    return REAL(file)->pMethods->xLock(REAL(file), how);
}

static int v_unlock(sqlite3_file *file, int how)
{
    return REAL(file)->pMethods->xUnlock(REAL(file), how);
}

static int v_reserved(sqlite3_file *file, int *ret)
{
    return REAL(file)->pMethods->xCheckReservedLock(REAL(file), ret);
}

static int v_control(sqlite3_file *file, int op, void *arg)
{
    return REAL(file)->pMethods->xFileControl(REAL(file), op, arg);
}

static int v_sector(sqlite3_file *file)
{
    return REAL(file)->pMethods->xSectorSize(REAL(file));
}

static int v_device(sqlite3_file *file)
{
    return REAL(file)->pMethods->xDeviceCharacteristics(REAL(file));
}

static int v_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret)
{
    return REAL(file)->pMethods->xShmMap(REAL(file), page, size, extend, ret);
}

static int v_shm_lock(sqlite3_file *file, int off, int n, int flags)
{
    return REAL(file)->pMethods->xShmLock(REAL(file), off, n, flags);
}

static void v_shm_barrier(sqlite3_file *file)
{
    REAL(file)->pMethods->xShmBarrier(REAL(file));
}

static int v_shm_unmap(sqlite3_file *file, int drop)
{
    return REAL(file)->pMethods->xShmUnmap(REAL(file), drop);
}

/* --- names ------------------------------------------------------------------------------------ */

/* Opens the real file and finds it in the disk model. Lock held. */
static int open_known(struct vfile *v, const char *path, int flags, int *ret_flags)
{
    struct stat st;
    bool cut, exists = access(path, F_OK) == 0;
    bool makes = flags & SQLITE_OPEN_CREATE && !exists;
    int r = makes ? faultio_enter(v->f, FAULTIO_CREATE, path, &cut) : v->f->is_cut ? -EIO : 0;
    if (r < 0)
        return code(r, SQLITE_CANTOPEN);
    int rc = g_unix->xOpen(g_unix, path, v->real, flags, ret_flags);
    if (rc != SQLITE_OK)
        return rc;
    MUST(stat(path, &st) == 0);
    v->file = faultio_file(&v->f->disk, st.st_ino);
    v->file->users++;
    if (makes)
        faultio_dirop(&v->f->disk, DIROP_CREATE, NULL, faultio_below(v->f, path), v->file);
    v->path = faultio_dup(path);
    v->sync_dir = flags & SQLITE_OPEN_CREATE &&
                  flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL);
    return rc;
}

static int v_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *ret_flags)
{
    struct vfile *v = (struct vfile *)(void *)file;
    int rc;
    (void)vfs;
    memset(v, 0, sizeof(*v));
    v->real = (sqlite3_file *)(void *)(v + 1);
    memset(v->real, 0, (size_t)g_unix->szOsFile);
    v->f = of_path(path);
    if (v->f) {
        pthread_mutex_lock(&v->f->lock);
        rc = open_known(v, path, flags, ret_flags);
        pthread_mutex_unlock(&v->f->lock);
    } else {
        rc = g_unix->xOpen(g_unix, path, v->real, flags, ret_flags);
    }
    v->base.pMethods = rc == SQLITE_OK ? &g_methods : NULL;
    return rc;
}

static int v_delete(sqlite3_vfs *vfs, const char *path, int sync_dir)
{
    struct faultio *f = of_path(path);
    char dir[4096];
    struct stat st;
    bool cut;
    (void)vfs;
    if (!f)
        return g_unix->xDelete(g_unix, path, sync_dir);
    pthread_mutex_lock(&f->lock);
    int rc = SQLITE_IOERR_DELETE_NOENT, r = -EIO;
    if (f->is_cut)
        rc = SQLITE_IOERR_DELETE;
    else if (stat(path, &st) == 0 && (r = faultio_enter(f, FAULTIO_UNLINK, path, &cut)) < 0)
        rc = SQLITE_IOERR_DELETE;
    if (r == 0) {
        struct file *file = faultio_file(&f->disk, st.st_ino);
        faultio_dirop(&f->disk, DIROP_UNLINK, NULL, faultio_below(f, path), file);
        file->ino = 0;
        faultio_give(f, (uint64_t)st.st_size, 0);
        rc = g_unix->xDelete(g_unix, path, 0);
    }
    if (r == 0 && sync_dir) {
        dir_of(path, dir);
        faultio_sync_names(&f->disk, faultio_below(f, dir));
    }
    pthread_mutex_unlock(&f->lock);
    return rc;
}

/* --- registration ----------------------------------------------------------------------------- */

static void install(void)
{
    g_unix = sqlite3_vfs_find(NULL);
    MUST(g_unix);
    g_vfs = *g_unix;
    g_vfs.szOsFile = (int)sizeof(struct vfile) + g_unix->szOsFile;
    g_vfs.zName = "fault";
    g_vfs.pNext = NULL;
    g_vfs.xOpen = v_open;
    g_vfs.xDelete = v_delete;
    g_methods = (sqlite3_io_methods){.iVersion = 2, /* no memory-mapped database */
                                     .xClose = v_close,
                                     .xRead = v_read,
                                     .xWrite = v_write,
                                     .xTruncate = v_truncate,
                                     .xSync = v_sync,
                                     .xFileSize = v_size,
                                     .xLock = v_lock,
                                     .xUnlock = v_unlock,
                                     .xCheckReservedLock = v_reserved,
                                     .xFileControl = v_control,
                                     .xSectorSize = v_sector,
                                     .xDeviceCharacteristics = v_device,
                                     .xShmMap = v_shm_map,
                                     .xShmLock = v_shm_lock,
                                     .xShmBarrier = v_shm_barrier,
                                     .xShmUnmap = v_shm_unmap};
    MUST(sqlite3_vfs_register(&g_vfs, 1) == SQLITE_OK);
}

void faultvfs_add(struct faultio *f)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    pthread_mutex_lock(&g_all_lock);
    f->next = g_all;
    g_all = f;
    pthread_mutex_unlock(&g_all_lock);
}

void faultvfs_remove(struct faultio *f)
{
    pthread_mutex_lock(&g_all_lock);
    struct faultio **at = &g_all;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    pthread_mutex_unlock(&g_all_lock);
}
