/* log.h: leveled log of a program, to stderr or a file. Libraries return errors and stay silent on the data path; they may
 * log events an operator must see (role changes, recoveries). Thread-safe; one line per call, with UTC time and thread name. */
#ifndef DMT_BASE_LOG_H
#define DMT_BASE_LOG_H

enum dmt_log_level { DMT_LOG_ERROR, DMT_LOG_WARN, DMT_LOG_INFO, DMT_LOG_DEBUG };

/* program: shown in each line (static string). path: file appended to, or NULL for stderr. 0 or -errno. */
int dmt_log_init(const char *program, const char *path, enum dmt_log_level level);
void dmt_log_set_level(enum dmt_log_level level);
/* "error|warn|info|debug" -> level, or -EINVAL. */
int dmt_log_level_parse(const char *s);
void dmt_log(enum dmt_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define dmt_error(...) dmt_log(DMT_LOG_ERROR, __VA_ARGS__)
#define dmt_warn(...)  dmt_log(DMT_LOG_WARN, __VA_ARGS__)
#define dmt_info(...)  dmt_log(DMT_LOG_INFO, __VA_ARGS__)
#define dmt_debug(...) dmt_log(DMT_LOG_DEBUG, __VA_ARGS__)

/* Asserts stay on in production: prints and aborts. */
#define DMT_ASSERT(cond) ((cond) ? (void)0 : dmt_assert_fail(#cond, __FILE__, __LINE__))
void dmt_assert_fail(const char *cond, const char *file, int line) __attribute__((noreturn));

#endif
