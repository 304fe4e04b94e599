/* ctl.c: sends the lines of standard input to a control socket and prints each answer that is a
 * result or an error.   ctl SOCKET < requests For tests that ask what no verb of `dumont` asks.
 * Exit 0; 1 when it cannot connect or the other end goes away.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char line[65536], *answer = NULL;
    size_t cap = 0;
    if (argc != 2 || strlen(argv[1]) >= sizeof sa.sun_path)
        return 2;
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0)
        return perror(argv[1]), 1;
    FILE *f = fdopen(fd, "r+");
    int rc = 0;
    while (rc == 0 && f && fgets(line, sizeof line, stdin)) {
        fputs(line, f);
        fflush(f);
        do
            rc = getline(&answer, &cap, f) <= 0;
        while (rc == 0 && strncmp(answer, "{\"progress\"", 11) == 0);
        if (rc == 0)
            fputs(answer, stdout);
    }
    free(answer);
    return rc;
}
