/* Imports a function that Hostel does not have. */
#include <windows.h>

int main(void)
{
    return MessageBoxA(NULL, "text", "title", MB_OK);
}
