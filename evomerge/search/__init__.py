"""Search strategies behind ask and tell. They see points of the unit cube and fitness numbers."""
