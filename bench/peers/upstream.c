/* A provider that costs nothing: OpenAI's chat completions from one thread and one epoll.
 *
 * cc -O2 upstream.c -o upstream && ./upstream PORT CHUNKS PACE_US
 *
 * A body with "stream":true gets CHUNKS server-sent events, one every PACE_US microseconds (0 = all
 * at once), then the end, the usage and [DONE]; any other body gets the same text as one JSON
 * object. Connections are kept. It reads of a request only its length and that one field.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 4096, BUFFER = 1 << 16 };

typedef struct {
    char in[BUFFER];
    int filled;
    int left;      /* chunks still to send; -1 = not streaming */
    double next_s; /* when the next is due */
} Connection;

static Connection *connections[MAX];
static int open_fds[MAX], n_open;
static char whole[BUFFER], all[4 * BUFFER], delta[512], tail[1024];
static int whole_n, all_n, delta_n, tail_n, chunks;
static double pace_s;

static const char *const HEAD =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int framed(char *out, const char *event) { /* one SSE event as one HTTP chunk */
    return sprintf(out, "%zx\r\ndata: %s\n\n\r\n", strlen(event) + 8, event);
}

static void prepare(void) {
    const char *part = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                       "\"created\":1700000000,\"model\":\"fake\",\"choices\":[{\"index\":0,"
                       "\"delta\":{\"role\":\"assistant\",\"content\":\" word\"},"
                       "\"finish_reason\":null}]}";
    char usage[256], body[BUFFER - 256];
    delta_n = framed(delta, part);
    tail_n = framed(tail, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                          "\"created\":1700000000,\"model\":\"fake\",\"choices\":[{\"index\":0,"
                          "\"delta\":{},\"finish_reason\":\"stop\"}]}");
    sprintf(usage, "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%d,\"total_tokens\":%d}",
            chunks, 12 + chunks);
    sprintf(body, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                  "\"created\":1700000000,\"model\":\"fake\",\"choices\":[],%s}", usage);
    tail_n += framed(tail + tail_n, body);
    tail_n += framed(tail + tail_n, "[DONE]");
    tail_n += sprintf(tail + tail_n, "0\r\n\r\n");
    all_n = sprintf(all, "%s", HEAD);
    for (int i = 0; i < chunks; i++) all_n += sprintf(all + all_n, "%s", delta);
    all_n += sprintf(all + all_n, "%s", tail);
    int n = sprintf(body, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\","
                          "\"created\":1700000000,\"model\":\"fake\",\"choices\":[{\"index\":0,"
                          "\"message\":{\"role\":\"assistant\",\"content\":\"");
    for (int i = 0; i < chunks; i++) n += sprintf(body + n, " word");
    n += sprintf(body + n, "\"},\"finish_reason\":\"stop\"}],%s}", usage);
    whole_n = sprintf(whole, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             "Content-Length: %d\r\n\r\n%s", n, body);
}

static void drop(int fd) {
    close(fd);
    free(connections[fd]);
    connections[fd] = NULL;
    for (int i = 0; i < n_open; i++)
        if (open_fds[i] == fd) {
            open_fds[i] = open_fds[--n_open];
            break;
        }
}

static int say(int fd, const char *data, int n) { /* loopback takes it whole, or the reader is gone */
    if (send(fd, data, n, MSG_NOSIGNAL) == n) return 1;
    drop(fd);
    return 0;
}

static void answer(int fd, Connection *c, const char *body) {
    if (!memmem(body, c->in + c->filled - body, "\"stream\":true", 13) &&
        !memmem(body, c->in + c->filled - body, "\"stream\": true", 14)) {
        say(fd, whole, whole_n);
        return;
    }
    if (pace_s == 0) {
        say(fd, all, all_n);
        return;
    }
    if (!say(fd, HEAD, strlen(HEAD))) return;
    c->left = chunks;
    c->next_s = now();
}

static void take(int fd) {
    Connection *c = connections[fd];
    int n = read(fd, c->in + c->filled, BUFFER - 1 - c->filled);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    c->filled += n;
    c->in[c->filled] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(c->in, "content-length:");
    int size = length && length < end ? atoi(length + 15) : 0;
    char *body = end + 4;
    if (c->in + c->filled - body < size) return;
    answer(fd, c, body);
    if (connections[fd] == c) c->filled = 0; /* nobody pipelines */
}

static int tick(void) { /* send what is due; milliseconds until more is */
    double t = now(), next = t + 1.0;
    for (int i = n_open - 1; i >= 0; i--) {
        int fd = open_fds[i];
        Connection *c = connections[fd];
        if (c->left < 0) continue;
        if (c->next_s <= t) {
            int last = c->left-- == 0;
            c->next_s += pace_s;
            if (!say(fd, last ? tail : delta, last ? tail_n : delta_n)) continue;
            if (last) {
                c->left = -1;
                continue;
            }
        }
        if (c->next_s < next) next = c->next_s;
    }
    int wait_ms = (int)((next - now()) * 1e3) + 1;
    return wait_ms < 0 ? 0 : wait_ms;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "upstream PORT CHUNKS PACE_US\n"), 2;
    chunks = atoi(argv[2]);
    if (chunks < 1 || chunks > 200) return fprintf(stderr, "CHUNKS: 1 to 200\n"), 2;
    pace_s = atof(argv[3]) * 1e-6;
    prepare();
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1024)) return perror("bind"), 1;
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, events, 256, tick());
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd != listener) {
                if (connections[events[i].data.fd]) take(events[i].data.fd);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            if (fd >= MAX) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            connections[fd] = calloc(1, sizeof(Connection));
            connections[fd]->left = -1;
            open_fds[n_open++] = fd;
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
