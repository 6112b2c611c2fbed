// The links an Expert Advisor has open: each with a thread of its own, and with queues that have an end.
#pragma once
#include "stream.h"

const size_t QUEUE_BYTES_MAX = 8000000;
const int LINKS_MAX = 32;

int add_link(StreamPtr (*make)(const std::string &, int, Wake &), const std::string &where, int port, int64_t patience_ms);
int link_state(int handle);
int link_send(int handle, const unsigned char *bytes, int count);
int link_receive(int handle, unsigned char *bytes, int capacity);
int close_link(int handle);
bool link_why(int handle, std::string &why);
void close_all_links();
// Links and jobs share their numbers.
int next_handle();
