"""What all streams of Ray Data share: packets, and actors beside the driver.

Nothing here knows what is streamed.
"""
