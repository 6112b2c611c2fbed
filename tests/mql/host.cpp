// What a terminal does with an Expert Advisor: init, timer, deinit.
extern int OnInit();
extern void OnDeinit(const int reason);
extern void OnTimer();

static void mql_stop(int) { mql_stopped = 1; }

int main() {
    signal(SIGTERM, mql_stop);
    signal(SIGPIPE, SIG_IGN);
    MathSrand(int(GetMicrosecondCount()));
    int begun = OnInit();
    if (begun != INIT_SUCCEEDED) { fprintf(stderr, "OnInit returned %d\n", begun); return 3; }
    while (!mql_stopped && mql_timer_ms) {
        usleep(useconds_t(mql_timer_ms) * 1000);
        if (getppid() == 1) return 0;
        OnTimer();
    }
    OnDeinit(1);
    return 0;
}
