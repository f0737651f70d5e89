/* The library beside the plugin, in the version that ANSWER says. */
int answer(void) { return ANSWER; }
