"""moeplan: will this model run on this machine, how fast, with which placement, and how sure are we?"""
